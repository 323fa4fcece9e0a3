import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from catalogpose.truepose import attention
from catalogpose.truepose.attention import (
    QUERY_CHUNK,
    cross_attention,
    least_attended_regions,
    merge_heads,
    reweight,
    reweighted_attention,
    split_heads,
)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return Q', K' and V', large enough that softmaxes are far from flat."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return [(1.7 * query).to(dtype), (1.7 * key).to(dtype), value.to(dtype)]


def mask_of(kind: str, batch: int, tokens: int) -> Tensor:
    """Return M of a kind; a mixed one differs between the pictures of a batch."""
    if kind == "mixed":
        return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(4)) < 0.4
    return torch.full((batch, tokens), kind == "all")


def factor(logit: float, *, selected: bool, delta: float, sigma: float) -> float:
    """Return M' of Eq. 6 for one logit: its four cases as the paper prints them."""
    if selected and logit > 0:
        return 1 + delta
    if selected:
        return delta
    if logit > 0:
        return sigma
    return 1 + sigma


def equations_6_and_7(
    query: Tensor, key: Tensor, value: Tensor, selected: Tensor, delta: float, sigma: float
) -> Tensor:
    """Compute H' one query at a time in float64, sharing nothing with the code under test."""
    q, k, v = (tensor.double().numpy() for tensor in (query, key, value))
    out = np.zeros_like(q)
    for b, h, i in np.ndindex(q.shape[:3]):
        logits = [float(np.dot(q[b, h, i], k[b, h, j])) for j in range(k.shape[2])]
        weights = np.zeros(len(logits))
        for j, logit in enumerate(logits):
            scaled = logit / math.sqrt(q.shape[3])
            inside = bool(selected[b, j])
            weights[j] = scaled * factor(scaled, selected=inside, delta=delta, sigma=sigma)
        weights = np.exp(weights - weights.max())
        out[b, h, i] = (weights / weights.sum()) @ v[b, h]
    return torch.from_numpy(out)


def test_heads_split_and_merge():
    """Merging undoes splitting, and a head's channels lie side by side."""
    tokens = torch.arange(24.0).view(1, 3, 8)
    heads = split_heads(tokens, 2)
    assert heads.shape == (1, 2, 3, 4)
    assert heads[0, 1, 0].tolist() == [4, 5, 6, 7]
    assert torch.equal(merge_heads(heads), tokens)


def test_reweight_has_the_four_cases_of_equation_6():
    """With delta 0.6 and sigma 0.3 the factors are 1.6 and 0.6 inside M, 0.3 and 1.3 outside."""
    logits = torch.tensor([2.0, -2.0, 0.0, 2.0, -2.0, 0.0], dtype=torch.float64)
    selected = torch.tensor([True, True, True, False, False, False])
    expected = torch.tensor([3.2, -1.2, 0.0, 0.6, -2.6, 0.0], dtype=torch.float64)
    torch.testing.assert_close(reweight(logits, selected, 0.6, 0.3), expected)


@pytest.mark.parametrize("kind", ["all", "none", "mixed"])
@pytest.mark.parametrize(
    ("batch", "heads", "tokens"), [(2, 2, 1), (2, 3, 6), (1, 1, 128), (1, 1, 203)]
)
def test_reweighted_attention_equals_the_equations(kind, batch, heads, tokens):
    """Every mask and every number of query chunks gives Eq. 6-7 as written down."""
    query, key, value = draw(batch, heads, tokens, 5, dtype=torch.float64)
    selected = mask_of(kind, batch, tokens)
    found = reweighted_attention(query, key, value, selected)
    expected = equations_6_and_7(query, key, value, selected, 0.6, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 8e-3)]
)
def test_reweighted_attention_in_every_type(dtype, tolerance):
    """The result has the input's type and that type's rounding, no more."""
    query, key, value = draw(1, 2, 140, 40, dtype=dtype)
    selected = mask_of("mixed", 1, 140)
    found = reweighted_attention(query, key, value, selected)
    assert found.dtype == dtype
    expected = equations_6_and_7(query, key, value, selected, 0.6, 0.3)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_reweighted_attention_takes_other_strengths():
    """Delta and sigma are the caller's."""
    query, key, value = draw(2, 1, 9, 4, dtype=torch.float64)
    selected = mask_of("mixed", 2, 9)
    found = reweighted_attention(query, key, value, selected, delta=0.9, sigma=0.05)
    expected = equations_6_and_7(query, key, value, selected, 0.9, 0.05)
    torch.testing.assert_close(found, expected)


def test_neutral_strengths_leave_plain_attention():
    """Where every factor is 1, here inside M with delta 0 and a > 0, it is ordinary attention."""
    query, key, value = (tensor.abs() for tensor in draw(1, 2, 150, 4, dtype=torch.float64))
    selected = mask_of("all", 1, 150)
    found = reweighted_attention(query, key, value, selected, delta=0.0)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(found, plain)


def test_selection_indexes_keys():
    """Selecting a key that queries like draws every query to it; unlike keys are pushed away."""
    query = torch.ones(1, 1, 3, 4)
    key = torch.tensor([1.0, 1.0, -1.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    value = torch.eye(3).view(1, 1, 3, 3)
    weights = reweighted_attention(query, key, value, torch.tensor([[True, False, False]]))
    logits = torch.tensor([1.6 * 2, 0.3 * 2, 1.3 * -2])
    torch.testing.assert_close(weights[0, 0], logits.softmax(0).expand(3, 3))


@pytest.mark.parametrize("few", [0, 5])
@pytest.mark.parametrize("kind", ["all", "none", "mixed"])
def test_gradients_are_right_across_chunks(kind, few, monkeypatch):
    """Autograd agrees with finite differences, chunks recomputed in the backward pass or not."""
    monkeypatch.setattr(attention, "QUERY_CHUNK", 2)
    monkeypatch.setattr(attention, "FEW_TOKENS", few)
    inputs = [tensor.requires_grad_() for tensor in draw(2, 2, 5, 3, dtype=torch.float64)]
    selected = mask_of(kind, 2, 5)
    assert torch.autograd.gradcheck(lambda *qkv: reweighted_attention(*qkv, selected), inputs)


def test_autocast_does_not_lower_the_logits():
    """Under bfloat16 autocast float32 inputs give bit for bit what they give without it."""
    query, key, value = draw(1, 2, 140, 8)
    selected = mask_of("mixed", 1, 140)
    plain = reweighted_attention(query, key, value, selected)
    with torch.autocast("cpu", torch.bfloat16):
        under = reweighted_attention(query, key, value, selected)
    assert torch.equal(under, plain)


@pytest.mark.parametrize("learn", [False, True])
def test_no_square_matrix_is_made(learn):
    """Neither pass holds more logits at once than one chunk of queries has."""
    query, key, value = (tensor.requires_grad_(learn) for tensor in draw(1, 2, 500, 4))
    with LargestTensor() as largest:
        fused = reweighted_attention(query, key, value, mask_of("mixed", 1, 500))
        if learn:
            fused.sum().backward()
    assert largest.elements == 2 * QUERY_CHUNK * 500


def test_backward_remembers_no_logits():
    """Between the passes nothing larger than the inputs is kept."""
    query, key, value = (tensor.requires_grad_() for tensor in draw(1, 2, 500, 4))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        reweighted_attention(query, key, value, mask_of("mixed", 1, 500))
    assert max(kept, default=0) <= query.numel()


def region_scores(query: Tensor, key: Tensor, labels: Tensor) -> list[dict[int, float]]:
    """Return each region's mean raw logit from the whole N x N matrix."""
    logits = query.double() @ key.double().transpose(-1, -2) / math.sqrt(query.shape[-1])
    return [
        {int(r): logits[b][:, :, labels[b] == r].mean().item() for r in labels[b].unique() if r}
        for b in range(len(query))
    ]


def lowest(scores: list[dict[int, float]], count: int) -> list[list[int]]:
    """Return the regions of the lowest scores, -1 where there are fewer."""
    ordered = [sorted(score, key=lambda region: (score[region], region)) for score in scores]
    return [(regions + [-1] * count)[:count] for regions in ordered]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_least_attended_regions_equal_the_whole_matrix(count, dtype):
    """The linear form picks what the N x N matrix of raw logits picks."""
    for seed in range(5):
        query, key, _ = draw(3, 2, 40, 4, seed=seed, dtype=dtype)
        labels = torch.randint(0, 7, (3, 40), generator=torch.Generator().manual_seed(seed))
        found = least_attended_regions(query, key, labels, count=count)
        assert found.dtype == torch.int64
        assert found.tolist() == lowest(region_scores(query, key, labels), count)


def test_equal_regions_go_by_index():
    """Regions with the same keys tie, and the lower index comes first."""
    query, key, _ = draw(1, 2, 12, 4)
    labels = torch.tensor([[9, 9, 9, 4, 4, 4, 7, 7, 7, 2, 2, 2]])
    key = key[:, :, :3].repeat(1, 1, 4, 1)
    assert least_attended_regions(query, key, labels, count=3).tolist() == [[2, 4, 7]]


def test_missing_regions_are_minus_one():
    """A source with fewer regions than asked for fills up with -1, whatever its neighbour has."""
    query, key, _ = draw(3, 1, 6, 4)
    labels = torch.tensor([[0, 0, 0, 0, 0, 0], [3, 3, 3, 0, 0, 0], [1, 1, 2, 2, 3, 3]])
    found = least_attended_regions(query, key, labels, count=2)
    assert found[0].tolist() == [-1, -1]
    assert found[1].tolist() == [3, -1]
    assert found[2].tolist() == lowest(region_scores(query, key, labels), 2)[2]


def test_background_is_never_chosen():
    """Even where the background is attended least of all, it is no region."""
    query = torch.ones(1, 1, 4, 2)
    key = torch.tensor([-9.0, -9.0, 1.0, 2.0]).view(1, 1, 4, 1).expand(1, 1, 4, 2)
    labels = torch.tensor([[0, 0, 2, 1]])
    assert least_attended_regions(query, key, labels, count=3).tolist() == [[2, 1, -1]]


def test_the_number_of_regions_may_be_given():
    """Naming more regions than occur changes nothing; naming the background alone finds none."""
    query, key, _ = draw(2, 2, 30, 4)
    labels = torch.randint(0, 6, (2, 30), generator=torch.Generator().manual_seed(0))
    expected = least_attended_regions(query, key, labels)
    assert torch.equal(least_attended_regions(query, key, labels, regions=28), expected)
    nothing = least_attended_regions(query, key, torch.zeros_like(labels), regions=1, count=3)
    assert nothing.tolist() == [[-1] * 3] * 2


def test_choosing_regions_makes_no_square_matrix():
    """The choice costs a few vectors, not the N x N logits."""
    query, key, _ = draw(1, 2, 500, 4)
    labels = torch.randint(0, 6, (1, 500), generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        least_attended_regions(query, key, labels)
    assert largest.elements <= 500 * 2 * 4


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """Compute masked attention one picture and head at a time over its valid tokens alone."""
    out = torch.zeros_like(query)
    for b, h in np.ndindex(query.shape[:2]):
        keys, values = key[b, h, valid[b]], value[b, h, valid[b]]
        if len(keys):
            logits = query[b, h] @ keys.T / math.sqrt(query.shape[-1])
            out[b, h] = logits.softmax(1) @ values
    return out


VALID = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False] * 3])
"""Which of three tokens each of four pictures may attend to."""


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Queries (4, 2, 5, 4) and three condition tokens."""
    query, _, _ = draw(4, 2, 5, 4, dtype=torch.float64)
    _, key, value = draw(4, 2, 3, 4, seed=1, dtype=torch.float64)
    return query, key, value


def test_cross_attention_masks_tokens(tokens):
    """A picture attends to its valid tokens alone, and to none gives exactly zero."""
    found = cross_attention(*tokens, VALID)
    torch.testing.assert_close(found, attend(*tokens, VALID))
    assert found[3].abs().max() == 0


def test_cross_attention_without_a_mask(tokens):
    """No mask means that every token is valid."""
    everything = torch.ones(4, 3, dtype=torch.bool)
    torch.testing.assert_close(cross_attention(*tokens), attend(*tokens, everything))
    torch.testing.assert_close(cross_attention(*tokens, everything), cross_attention(*tokens))


def test_invalid_tokens_may_hold_anything(tokens):
    """What lies in masked tokens never shows, however large."""
    query, key, value = tokens
    hidden = ~VALID[:, None, :, None]
    loud = (query, key.masked_fill(hidden, 1e4), value.masked_fill(hidden, -1e6))
    torch.testing.assert_close(cross_attention(*loud, VALID), cross_attention(*tokens, VALID))


@pytest.mark.parametrize("wrap", [torch.nn.Identity, None])
def test_cross_attention_gradients(tokens, wrap: Callable | None):
    """Gradients agree with finite differences and are zero, not NaN, where nothing is valid."""
    inputs = [tensor.clone().requires_grad_() for tensor in tokens]
    valid = VALID if wrap else None
    assert torch.autograd.gradcheck(lambda *qkv: cross_attention(*qkv, valid), inputs)
    cross_attention(*inputs, VALID).sum().backward()
    assert all(tensor.grad[3].abs().max() == 0 for tensor in inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_training_on_a_cpu_gives_what_the_fused_kernel_gives(masked, monkeypatch):
    """Outputs and gradients do not depend on which of the two ways training takes."""
    valid = torch.rand(3, 9, generator=torch.Generator().manual_seed(4)) < 0.6 if masked else None
    found = []
    for most in (attention.MOST_LOGITS, 0):
        monkeypatch.setattr(attention, "MOST_LOGITS", most)
        parts = [t.requires_grad_() for t in draw(3, 2, 9, 4)]
        output = cross_attention(*parts, valid)
        output.square().sum().backward()
        found.append([output.detach(), *(part.grad for part in parts)])
    for ours, fused in zip(*found, strict=True):
        torch.testing.assert_close(ours, fused, rtol=1e-4, atol=1e-5)
