"""Every map of the papers by plain loops in float64, from Q and K alone: no label, no torch, no xarray."""

from functools import lru_cache

import numpy as np

CUBIC = -0.75


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def logits_of(leaf, q, k, stored_lse=None):
    """Q K^T; of a dense leaf what its ln(attention), a float16, and its rounded log-sum-exp stand for."""
    made = q @ np.swapaxes(k, -1, -2)
    if leaf.encoding != "dense" or stored_lse is None:
        return made
    top = made.max(-1, keepdims=True)
    lse = top[..., 0] + np.log(np.exp(made - top).sum(-1))
    stored = stored_lse.astype(float)
    np.testing.assert_allclose(stored, lse, atol=5e-4)
    return np.log(softmax(made, -1)).astype(np.float16).astype(float) + stored[..., None]


def weight(rule, distance):
    d = abs(distance)
    if rule == "bilinear":
        return max(0.0, 1 - d)
    if d <= 1:
        return (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
    return CUBIC * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


@lru_cache
def along(rule, size, target):
    """Weights (target, size) of one axis, pixel by pixel: centres at half integers, edges repeated."""
    made = np.zeros((target, size))
    for pixel in range(target):
        at = (pixel + 0.5) * size / target - 0.5
        if rule == "nearest":
            made[pixel, int(pixel * size / target)] = 1
            continue
        for other in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            made[pixel, min(max(other, 0), size - 1)] += weight(rule, at - other)
    return made


def resized(values, shape, rule="bicubic", mass=False, clamp=False):
    rows, columns = (along(rule, size, target) for size, target in zip(values.shape, shape, strict=True))
    made = rows @ values @ columns.T
    if mass:
        made *= values.size / (shape[0] * shape[1])
    return np.maximum(made, 0) if clamp else made


def _lse(store, name, row):
    return store.group[f"{name}/logsumexp"][row] if f"{name}/logsumexp" in store.group else None


class Oracle:
    """Attention of every run, branch, call, layer and head of one kind, and maps made of it.

    ``of="full"``: of the logits that the full arrays hold; ``of="summary"``: of Q and K as they were when the recorder
    took its means, which differs where ln(attention) was rounded.
    """

    def __init__(self, store, vectors, kind, of="full"):
        self.leaves = {name: leaf for name, leaf in store.leaves.items() if leaf.kind == kind}
        self.branches = list(store.branches)
        self.calls = store.calls
        self.runs = sorted({row for _, row in vectors})
        self.logits = {
            (name, row): logits_of(self.leaves[name], q, k, _lse(store, name, row) if of == "full" else None)
            for (name, row), (q, k) in vectors.items()
            if name in self.leaves
        }
        self.query_grid = max((leaf.query_grid for leaf in self.leaves.values()), key=np.prod)

    def terms(self, row, branch="cond", direction="g2r"):
        """Yield leaf, t, layer, head, and the attention (query, key)."""
        for name, leaf in self.leaves.items():
            for t in range(self.calls):
                for place, path in enumerate(leaf.layers):
                    for head in range(leaf.heads):
                        own = self.logits[name, row][self.branches.index(branch), t, place, head]
                        yield leaf, t, path, head, softmax(own, 1 if direction == "g2r" else 0)

    def laid(self, leaf, vector, onto):
        """Tokens in rows and columns; keys that are no patches are dropped."""
        if onto == "query":
            return vector.reshape(leaf.query_grid)
        made = np.zeros((max(leaf.key_y) + 1, max(leaf.key_x) + 1))
        for value, y, x in zip(vector, leaf.key_y, leaf.key_x, strict=True):
            if y >= 0:
                made[y, x] = value
        return made

    def level(self, row, direction, keep=(), branch="cond", rule="bicubic", mass=False, layers=None):
        """ULAM, TLAM, HLAM, LLAM or any axes: {labels: map}."""
        onto = "key" if direction == "g2r" else "query"
        made = {}
        for leaf, t, path, head, attention in self.terms(row, branch, direction):
            if layers is not None and path not in layers:
                continue
            laid = self.laid(leaf, attention.mean(0 if onto == "key" else 1), onto)
            shape = self.query_grid if onto == "query" else laid.shape
            label = {"t": t, "layer": path, "head": head, "grid": leaf.grid}
            place = tuple(label[axis] for axis in keep)
            made[place] = made.get(place, 0) + resized(laid, shape, rule, mass)
        return made

    def sram(self, row, patch, layers=None):
        """Row of the patch; on a coarser grid of the cell that holds it: {layer: map}."""
        made = {}
        for leaf, _, path, _, attention in self.terms(row):
            y, x = (p * own // fine for p, own, fine in zip(patch, leaf.query_grid, self.query_grid, strict=True))
            if layers is None or path in layers:
                made[path] = made.get(path, 0) + self.laid(leaf, attention[y * leaf.query_grid[1] + x], "key")
        return made

    def reverse_sram(self, row, patch):
        """Column of the reference patch: {layer: map}."""
        made = {}
        for leaf, _, path, _, attention in self.terms(row, direction="r2g"):
            (place,) = (i for i, at in enumerate(zip(leaf.key_y, leaf.key_x, strict=True)) if at == patch)
            own = resized(self.laid(leaf, attention[:, place], "query"), self.query_grid)
            made[path] = made.get(path, 0) + own
        return made

    def daam(self, row, tokens, released):
        """As printed (eq. 6 and 7), or as castorini/daam 0.2.0 does it."""
        sums = {}
        for leaf, _, path, head, attention in self.terms(row):
            for token in tokens:
                place = leaf, path, head, token
                sums[place] = sums.get(place, 0) + attention[:, token].reshape(leaf.query_grid)
        heads = len({(path, head) for _, path, head, _ in sums})
        if released:
            made = [resized(own, self.query_grid, clamp=True) for own in sums.values()]
            return sum(made) / len(tokens) / heads
        return sum(resized(own, self.query_grid, "nearest", mass=True) for own in sums.values()) / len(tokens)

    def released(self, row, direction, calls=None):
        """I2AM's release: each token's own map is summed over calls, resized, clamped; then means of everything."""
        onto = "key" if direction == "g2r" else "query"
        sums = {}
        for leaf, t, path, head, attention in self.terms(row, direction=direction):
            if calls is None or t in calls:
                sums[leaf, path, head] = sums.get((leaf, path, head), 0) + attention
        made = []
        for (leaf, _, _), attention in sums.items():
            rows = attention if onto == "key" else attention.T
            laid = [self.laid(leaf, row, onto) for row in rows]
            shape = self.query_grid if onto == "query" else laid[0].shape
            made.append(np.mean([resized(own, shape, clamp=True) for own in laid], 0))
        return np.mean(made, 0)
