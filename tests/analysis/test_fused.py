"""Several means from one exponential, against softmaxes in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from attlas.analysis.blockwise import fused, kernels
from attlas.analysis.blockwise.fused import Ask, several_means
from attlas.analysis.blockwise.matrices import Factors, LogAttention
from attlas.analysis.blockwise.room import Room, room_of

COUNT, QUERIES, KEYS = 3, 11, 7
AXIS = {"g2r": -1, "r2g": -2}
KINDS = [(direction, onto) for direction in ("g2r", "r2g") for onto in ("key", "query")]


def factors(spread=1.0, seed=0, channels=4):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=spread, size=(COUNT, QUERIES, channels)), rng.normal(size=(COUNT, KEYS, channels))


def shares(onto, seed):
    made = np.random.default_rng(seed).uniform(size=(COUNT, QUERIES if onto == "key" else KEYS))
    return made / made.sum(-1, keepdims=True)


def expected(logits, direction, onto, share):
    attention = np.nan_to_num(softmax(logits, AXIS[direction]))
    own = share if share is not None else np.full((COUNT, QUERIES if onto == "key" else KEYS), 1.0)
    own = own / own.sum(-1, keepdims=True)
    return np.einsum("nqk,nq->nk" if onto == "key" else "nqk,nk->nq", attention, own)


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def check(matrices, logits, rtol=5e-6, kinds=KINDS):
    """Every kind of mean, weighted and not, all in one pass."""
    wanted = [(*kind, share) for kind in kinds for share in (None, shares(kind[1], 1), shares(kind[1], 2))]
    asks = [Ask(direction, onto, None if own is None else tensor(own)) for direction, onto, own in wanted]
    for (direction, onto, own), made in zip(wanted, several_means(matrices, asks), strict=True):
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made, expected(logits, direction, onto, own), rtol=rtol, atol=1e-9)


@pytest.fixture(params=[10**6, 40, 1], ids=["whole", "tiles", "rows"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", request.param)


@pytest.fixture(params=[10**6, 1], ids=["held", "not held"])
def held(request, monkeypatch):
    monkeypatch.setattr(fused, "HELD_ELEMENTS", request.param)


def singles(q, k):
    """Tiles are of single matrices."""
    return [Factors(tensor(q[i : i + 1]), tensor(k[i : i + 1]), Room("cpu")) for i in range(COUNT)]


def test_by_hand():
    # exp(S) = [[1, 3], [1, 1]]: rows give 1/4 3/4 and 1/2 1/2; columns give 1/2 1/2 and 3/4 1/4.
    q, k = tensor([[[0, np.log(3)], [0, 0]]]), torch.eye(2)[None]
    g2r, r2g, row = several_means(
        Factors(q, k, Room("cpu")),
        [Ask("g2r", "key"), Ask("r2g", "query"), Ask("g2r", "key", tensor([[1, 0]]))],
    )
    np.testing.assert_allclose(g2r, [[3 / 8, 5 / 8]], rtol=1e-6)
    np.testing.assert_allclose(r2g, [[5 / 8, 3 / 8]], rtol=1e-6)
    np.testing.assert_allclose(row, [[1 / 4, 3 / 4]], rtol=1e-6)


@pytest.mark.parametrize("spread", [0.5, 60.0], ids=["bounded", "shifted"])
def test_factors(spread, tiles, held):
    q, k = factors(spread)
    logits = q.astype("f4").astype("f8") @ k.astype("f4").astype("f8").swapaxes(-1, -2)
    assert Factors(tensor(q), tensor(k), Room("cpu")).bounded == (spread < 1)
    # Logits of some hundreds have steps of 3e-5 in float32.
    for i, matrices in enumerate(singles(q, k)):
        for direction, onto in KINDS:
            for share in (None, shares(onto, 1)):
                own = None if share is None else tensor(share[i : i + 1])
                (made,) = several_means(matrices, [Ask(direction, onto, own)])
                np.testing.assert_allclose(
                    made[0], expected(logits, direction, onto, share)[i], rtol=3e-6 if spread < 1 else 3e-4, atol=1e-9
                )


def test_all_kinds_share_one_pass(monkeypatch):
    q, k = factors()
    counted = []
    tile = Factors.tile
    monkeypatch.setattr(Factors, "tile", lambda self, cut, out: (counted.append(cut), tile(self, cut, out)))
    check(Factors(tensor(q), tensor(k), Room("cpu")), q @ k.swapaxes(-1, -2))
    assert counted == [slice(0, QUERIES)]


def test_log_attention(tiles, held):
    q, k = factors(3.0)
    logits = q @ k.swapaxes(-1, -2)
    lse = logsumexp(logits, axis=-1)
    own = tensor(logits - lse[..., None])
    for i in range(COUNT):
        for direction, onto in KINDS:
            one = LogAttention(own[i : i + 1], tensor(lse[i : i + 1]), False, Room("cpu"))
            (made,) = several_means(one, [Ask(direction, onto)])
            np.testing.assert_allclose(made[0], expected(logits, direction, onto, None)[i], rtol=1e-5, atol=1e-9)


def test_log_attention_of_all_kinds_at_once():
    q, k = factors(3.0)
    logits = q @ k.swapaxes(-1, -2)
    lse = logsumexp(logits, axis=-1)
    check(LogAttention(tensor(logits - lse[..., None]), tensor(lse), False, Room("cpu")), logits, 1e-5)


def test_a_part_of_the_keys_is_not_normalised_again():
    q, k = factors(2.0)
    logits = q @ k.swapaxes(-1, -2)
    lse = logsumexp(logits, axis=-1)
    matrices = LogAttention(tensor((logits - lse[..., None])[..., :4]), tensor(lse), True, Room("cpu"))
    g2r, r2g = several_means(matrices, [Ask("g2r", "key"), Ask("r2g", "query")])
    np.testing.assert_allclose(g2r, softmax(logits, -1)[..., :4].mean(-2), rtol=5e-6)
    np.testing.assert_allclose(r2g, softmax(logits[..., :4], -2).mean(-1), rtol=5e-6)


def one_hot(size, place, depth):
    made = np.zeros(size)
    made[place] = depth
    return made


@pytest.mark.parametrize(("row", "column"), [(2, None), (None, 3), (2, 3), (10, 6)])
def test_lines_far_below_the_largest_logit_keep_their_share(row, column, tiles):
    # A channel of its own lowers a row or a column by 400, which leaves float32.
    q, k = factors()
    rows = np.zeros(QUERIES) if row is None else one_hot(QUERIES, row, -400.0)
    columns = np.zeros(KEYS) if column is None else one_hot(KEYS, column, -400.0)
    for i in range(COUNT):
        own_q = np.concatenate([q[i], rows[:, None], np.ones((QUERIES, 1))], -1)[None]
        own_k = np.concatenate([k[i], np.ones((KEYS, 1)), columns[:, None]], -1)[None]
        logits = np.broadcast_to(own_q @ own_k.swapaxes(-1, -2), (COUNT, QUERIES, KEYS))
        asks = [Ask(*kind) for kind in KINDS]
        for kind, made in zip(
            KINDS, several_means(Factors(tensor(own_q), tensor(own_k), Room("cpu")), asks), strict=True
        ):
            np.testing.assert_allclose(made[0], expected(logits, *kind, None)[0], rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize("mask", [-np.inf, -65504.0])
def test_masked_keys(mask):
    # The last channel is the mask: 1 in Q, what is added to the logits in K.
    q, k = factors()
    hidden = np.zeros((COUNT, KEYS, 1))
    hidden[:, [2, 5]] = mask
    logits = q @ k.swapaxes(-1, -2) + hidden.swapaxes(-1, -2)
    own = Factors(
        tensor(np.concatenate([q, np.ones((COUNT, QUERIES, 1))], -1)),
        tensor(np.concatenate([k, hidden], -1)),
        Room("cpu"),
    )
    with np.errstate(invalid="ignore"):
        # Where no query may see a key it has no share (numpy gives NaN, which counts as 0). Steps at 65504 are 2^-8.
        check(own, logits, 5e-6 if np.isinf(mask) else 5e-3)


def test_nan_is_never_skipped():
    q, k = factors()
    q[1, 4, 0] = np.nan
    asks = [Ask("g2r", "key"), Ask("r2g", "query")]
    g2r, r2g = several_means(Factors(tensor(q), tensor(k), Room("cpu")), asks)
    assert g2r[1].isnan().all()
    assert r2g[1].isnan().all()
    assert g2r[[0, 2]].isfinite().all()
    assert r2g[[0, 2]].isfinite().all()


def test_weights_without_any_are_nan():
    q, k = factors()
    none = torch.full((COUNT, QUERIES), torch.nan)
    (made,) = several_means(Factors(tensor(q), tensor(k), Room("cpu")), [Ask("g2r", "key", none)])
    assert made.isnan().all()


@given(seed=st.integers(0, 10**6), spread=st.floats(0.01, 100), depth=st.floats(0, 300), elements=st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_any_spread_any_tiling(seed, spread, depth, elements):
    """Sums over either axis of the softmax along it are 1, and every mean equals that of float64 logits."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(scale=spread, size=(1, QUERIES, 4)), rng.normal(size=(1, KEYS, 4))
    q = np.concatenate([q, -depth * rng.uniform(size=(1, QUERIES, 1))], -1).astype("f4")
    k = np.concatenate([k, np.ones((1, KEYS, 1))], -1).astype("f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BLOCK_ELEMENTS", elements)
        asks = [Ask(*kind) for kind in KINDS]
        made = dict(zip(KINDS, several_means(Factors(tensor(q), tensor(k), Room("cpu")), asks), strict=True))
    logits = q.astype("f8") @ k.astype("f8").swapaxes(-1, -2)
    scale = np.abs(q).astype("f8") @ np.abs(k).astype("f8").swapaxes(-1, -2)
    error = 4e-6 + 3e-7 * float(scale.max())
    for (direction, onto), mean in made.items():
        attention = softmax(logits, AXIS[direction])
        np.testing.assert_allclose(mean[0], attention[0].mean(-2 if onto == "key" else -1), rtol=error, atol=1e-9)
    assert made["g2r", "key"].sum().item() == pytest.approx(1, rel=error)
    assert made["r2g", "query"].sum().item() == pytest.approx(1, rel=error)


def test_room_grows_and_is_used_again():
    room = Room("cpu")
    first = room.of("tile", 2, 5)
    assert room.of("tile", 4).data_ptr() == first.data_ptr()
    assert room.of("key", 4).data_ptr() != first.data_ptr()
    assert room.of("tile", 4, 5).shape == (4, 5)
    own = room_of("cpu")
    assert room_of("cpu") is own
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(room_of, "cpu").result() is not own


@pytest.mark.parametrize("spread", [0.5, 60.0], ids=["bounded", "shifted"])
def test_the_order_in_memory_changes_nothing(spread):
    q, k = (tensor(own).half() for own in factors(spread))
    lse = (q.float() @ k.float().transpose(-1, -2)).logsumexp(-1)
    log_attention = ((q.float() @ k.float().transpose(-1, -2)) - lse[..., None]).half()
    asks = [Ask(*kind) for kind in KINDS]

    def stored(values):
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)

    for make, own, other in ((Factors, q, k), (LogAttention, log_attention, lse)):
        options = () if make is Factors else (False,)
        turned = (stored(own), stored(other) if make is Factors else other)
        assert turned[0].stride() != own.stride()
        plain, changed = (several_means(make(*pair, *options, Room("cpu")), asks) for pair in ((own, other), turned))
        for one, two in zip(plain, changed, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-9)
