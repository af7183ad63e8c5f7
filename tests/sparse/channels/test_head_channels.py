import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.sparse.channels.head_channels import HeadShape


@settings(deadline=None, max_examples=60)
@given(
    heads=st.integers(1, 4),
    groups=st.integers(1, 3),
    half=st.integers(1, 5),
    rotary=st.booleans(),
    per_head=st.booleans(),
    qk=st.floats(0, 0.95),
    vo=st.floats(0, 0.95),
    seed=st.integers(0, 1000),
)
def test_choice_respects_heads_groups_and_pairs(
    heads: int,
    groups: int,
    half: int,
    rotary: bool,
    per_head: bool,
    qk: float,
    vo: float,
    seed: int,
) -> None:
    e = 2 * half
    shape = HeadShape(heads, groups, e, rotary, per_head)
    generator = torch.Generator().manual_seed(seed)
    norms = [torch.rand(n * heads * e, generator=generator) for n in (groups, 1, 1)]
    kept = shape.kept(qk, pairs=True), shape.kept(vo, pairs=False)
    chosen = shape.choose(norms, *kept)
    assert (len(chosen.key), len(chosen.value)) == kept
    for rows, wide in ((chosen.key, chosen.query), (chosen.value, chosen.output)):
        assert rows.tolist() == sorted(set(rows.tolist()))
        expected = {
            (g * groups + r) * e + c
            for g, c in ((row // e, row % e) for row in rows.tolist())
            for r in range(groups)
        }
        assert wide.tolist() == sorted(expected)
        if per_head:
            counts = torch.bincount(rows // e, minlength=heads)
            assert (counts == counts[0]).all()
    if rotary:
        places = {(row // e, row % e) for row in chosen.key.tolist()}
        assert all((g, (c + half) % e) in places for g, c in places)
    # Nothing left out beats what is kept.
    if not per_head and len(chosen.value) < heads * e:
        left = torch.ones(heads * e, dtype=torch.bool)
        left[chosen.value] = False
        assert norms[2][chosen.value].min() >= norms[2][left].max()
