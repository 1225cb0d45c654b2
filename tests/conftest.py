"""Settings shared by all tests: no network, fixed profiles, few threads."""

import os

# Set before torch or numpy load: two cores are shared by the test workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

settings.register_profile(
    "attlas", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("attlas")
