"""What object stores answer, in words: which failure is worth another try, and what the reader can do about it."""

import re
from dataclasses import dataclass

__all__ = ["Answer"]

REPEATED = ("408", "425", "429", "500", "502", "503", "504")
"""Statuses that object_store asks again after."""


@dataclass(frozen=True)
class Answer:
    """A failure as obstore tells it, taken apart.

    Attributes
    ----------
    status
        HTTP status with its name, such as ``503 Service Unavailable``; empty where no answer came.
    code, message
        What the body says, where it is the usual XML.
    address
        Scheme and host of the server.
    tries
        How often the request was sent.
    text
        The first line of what obstore says.
    """

    status: str
    code: str
    message: str
    address: str
    tries: int
    text: str

    @classmethod
    def of(cls, err: Exception) -> "Answer":
        """Take an exception of obstore apart."""
        text = str(err).split("\n\nDebug source")[0]
        return cls(
            status=_first(r"status code: (\d{3}(?: [A-Za-z'-]+)*)", text),
            code=_first(r"<Code>(.*?)</Code>", text),
            message=_first(r"<Message>(.*?)</Message>", text),
            address=_first(r"performing [A-Z]+ (\w+://[^/\s?]*)", text),
            tries=int(_first(r"after (\d+) retries", text) or 0) + 1,
            text=text.strip().split("\n")[0],
        )

    @property
    def unanswered(self) -> bool:
        """Whether the connection failed, or ended in the midst of the answer."""
        return not self.status and "HTTP error" in self.text

    @property
    def no_bucket(self) -> bool:
        """Whether it is the whole bucket that is not there."""
        return self.code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in self.text

    @property
    def no_conditions(self) -> bool:
        """Whether the server does not know conditional writes."""
        return self.status[:3] in ("501", "405") or self.code == "NotImplemented"

    @property
    def beyond_end(self) -> bool:
        """Whether a range begins past the last byte."""
        return self.status.startswith("416")

    @property
    def not_partial(self) -> bool:
        """Whether a whole object came where a part was asked for."""
        return "non-partial response" in self.text

    def in_words(self, bucket: str, seconds: float) -> str:
        """Say what went wrong in `seconds`, and what helps."""
        told = f"{self.code}: {self.message}".strip(": ")
        status = f"{self.status} ({told})" if told else self.status
        if self.no_bucket:
            return f"there is no bucket {bucket!r} at this server; make it first"
        if self.status[:3] in ("401", "403"):
            return (
                f"the server refused access: {status}; check the access key in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, "
                f"AZURE_STORAGE_ACCOUNT_KEY) and its rights to {bucket!r}"
            )
        if "169.254." in self.address or "/latest/api/token" in self.text or "/latest/meta-data" in self.text:
            return (
                "no access key was found in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or in "
                "~/.aws/credentials; AWS_SKIP_SIGNATURE=true reads a public bucket without one"
            )
        if "configured region" in self.text:
            return f"the bucket {bucket!r} is in another region; set AWS_REGION to it"
        if self.status[:3] in REPEATED:
            return (
                f"the server answered {status} to {_times(self.tries)} in {seconds:.3g} s; try again later, or wait "
                "longer by ATTLAS_RETRY_SECONDS"
            )
        if self.status:
            return f"the server answered {status}"
        if self.unanswered:
            return (
                f"no whole answer came from {self.address or 'the server'} in {seconds:.3g} s; check that it is up and "
                "can be reached (AWS_ENDPOINT_URL), or wait longer by ATTLAS_RETRY_SECONDS"
            )
        return re.sub(r"^Generic \w+ error: ", "", self.text)[:300]


def _times(tries: int) -> str:
    return f"each of {tries} tries" if tries > 1 else "the one try"


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    return found.group(1).strip() if found else ""
