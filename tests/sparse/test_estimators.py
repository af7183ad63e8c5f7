"""The registry of estimators: what a config may name, and one added from outside."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
import torch
from torch import Tensor, nn

from sparselora.config.checks import parse_config
from sparselora.config.schema import register_schema
from sparselora.errors import UserError, WithoutEffectError
from sparselora.paths import CONF
from sparselora.sparse import estimators, named_settings
from sparselora.sparse.backbone.attention import Attention
from sparselora.sparse.backbone.ffn import FFNBlock
from sparselora.sparse.channels.attention_estimators import FixedNorms, build_norms
from sparselora.sparse.channels.ffn_estimators import build_estimator
from sparselora.sparse.channels.moments import InputMoments, LayerMoments
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.estimators import ESTIMATORS, load_builder, register_estimator
from sparselora.sparse.patch import sparsify
from tests.conftest import plain, tiny_batch, tiny_model


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(estimators._REGISTERED)
    yield
    estimators._REGISTERED.clear()
    estimators._REGISTERED.update(before)


class InputNorm(nn.Module):
    """Scores that are easy to follow: channel j by its row of lin1 times the mean of the tokens."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        return (self.get_buffer("weight") @ hidden_states.mean(0)).abs().float()


def mine(block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None) -> nn.Module:
    return InputNorm(block.lin1.weight.detach())


def mine_fixed(block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None) -> nn.Module:
    class Descending(nn.Module):
        def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> Tensor:
            return -torch.arange(block.intermediate_size, dtype=torch.float32)

    return Descending()


def mine_attention(
    attention: Attention, config: SparsityConfig, moments: InputMoments | None
) -> nn.Module:
    rows = {role: len(attention.weight(role)) for role in ("query", "key", "value")}
    return FixedNorms({role: torch.arange(count).float() for role, count in rows.items()})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_of_the_package_loads_its_builders(name: str) -> None:
    kind = ESTIMATORS[name]
    assert kind.build_attention is not None
    assert callable(load_builder(kind.build))
    assert callable(load_builder(kind.build_attention))


def test_every_estimator_of_the_package_has_a_file_and_every_file_an_estimator() -> None:
    assert {path.stem for path in (CONF / "estimator").glob("*.yaml")} == set(ESTIMATORS)


def test_a_registered_estimator_chooses_the_channels() -> None:
    register_estimator("mine", mine)
    model = tiny_model("bert")
    handle = sparsify(model, plain(estimator="mine", ffn_sparsity=0.5))
    scored: list[Tensor] = []
    ffn = handle.sparse_blocks["layer.0"]
    ffn.estimator.register_forward_hook(lambda _, __, scores: scored.append(scores))
    model(**tiny_batch()).loss.backward()
    assert len(scored) == 1
    assert ffn.chosen is not None
    assert torch.equal(ffn.chosen, scored[0].topk(ffn.kept).indices.sort().values)


def test_a_fixed_estimator_is_compensated_for_its_own_choice() -> None:
    register_estimator("mine", mine_fixed, fixed=True)
    model = tiny_model("bert")
    config = plain(estimator="mine", ffn_sparsity=0.5, compensation="lowrank", compensation_rank=3)
    handle = sparsify(model, config, tiny_batch())
    model(**tiny_batch()).loss.backward()
    ffn = handle.sparse_blocks["layer.1"]
    assert ffn.chosen is not None
    assert ffn.chosen.tolist() == list(range(ffn.kept))


def test_attention_by_a_builder_of_its_own() -> None:
    register_estimator("mine", mine, mine_attention)
    model = tiny_model("bert")
    handle = sparsify(model, plain(estimator="mine", qk_sparsity=0.5, vo_sparsity=0.5))
    model(**tiny_batch()).loss.backward()
    chosen = handle.sparse_attention["layer.0"].chosen
    assert chosen is not None
    heads = chosen.value.view(4, -1) % 6
    assert heads.tolist() == [[3, 4, 5]] * 4  # the last of each head's six: their norms are largest


def test_attention_without_a_builder_is_refused() -> None:
    register_estimator("mine", mine)
    for name in ("qk_sparsity", "vo_sparsity"):
        with pytest.raises(UserError, match=r"^estimator=mine: scores no channels of attention"):
            SparsityConfig(estimator="mine", **{name: 0.5})
    with pytest.raises(UserError, match="estimator=mine: scores no channels"):
        SparsityConfig(estimator="mine", layer_qk_sparsity={"layer.0": 0.5})


def test_what_is_not_given_is_no_other_estimators() -> None:
    register_estimator("mine", mine)
    config = SparsityConfig(estimator="mine")
    assert (config.estimator_weighted, config.estimator_tokens, config.svd_rank) == (
        False,
        128,
        None,
    )
    assert config.ffn_sparsity == SparsityConfig().ffn_sparsity


def test_a_plugins_file_is_read_as_the_command_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_settings, "CONFIG_FOLDERS", folders := list[Path]())
    register_estimator("mine", mine)
    assert SparsityConfig(estimator="mine").estimator_every == 1
    (tmp_path / "estimator").mkdir()
    (tmp_path / "estimator" / "mine.yaml").write_text(
        "# @package _global_\nestimator:\n  name: mine\n  tokens: 17\n  every: 5\nsvd_rank: null\n"
    )
    folders.append(tmp_path)
    config = SparsityConfig(estimator="mine")
    assert (config.estimator_tokens, config.estimator_every) == (17, 5)
    assert SparsityConfig(estimator="svd").estimator_every == 1


def test_a_rank_is_asked_for_where_it_has_one() -> None:
    register_estimator("mine", mine, has_rank=True)
    assert SparsityConfig(estimator="mine", svd_rank=3).svd_rank == 3
    with pytest.raises(UserError, match="svd_rank="):
        SparsityConfig(estimator="mine", svd_rank=0)


def test_calibration_is_asked_for_where_it_needs_some() -> None:
    register_estimator("mine", mine, needs_calibration=True)
    with pytest.raises(UserError, match="calibration: estimator=mine"):
        sparsify(tiny_model("bert"), plain(estimator="mine"))


def test_the_command_takes_it_and_judges_what_has_an_effect() -> None:
    register_estimator("mine", mine)
    register_estimator("fixed_one", mine_fixed, fixed=True)
    register_schema()
    base = ["estimator.name=mine", "model.name_or_path=x", "data.path=y.csv"]
    with hydra.initialize_config_dir(str(CONF)):
        run = parse_config(hydra.compose("config", [*base, "estimator.tokens=64"]), ())
        assert run.sparsity.kind is ESTIMATORS["mine"]
        with pytest.raises(WithoutEffectError, match="estimator=mine has no rank"):
            parse_config(hydra.compose("config", base), ["svd_rank"])
        fixed = hydra.compose("config", [*base, "estimator.name=fixed_one"])
        with pytest.raises(WithoutEffectError, match="estimator=fixed_one looks at no token"):
            parse_config(fixed, ["estimator.tokens"])
        with pytest.raises(
            UserError, match=r"estimator\.name=other: must be one of svd, .*, mine, fixed_one"
        ):
            parse_config(hydra.compose("config", ["estimator.name=other"]), ())
        with pytest.raises(UserError, match="estimator=mine: scores no channels of attention"):
            parse_config(hydra.compose("config", [*base, "qk_sparsity=0.5"]), ())


@pytest.mark.parametrize("name", ["", "Mine", "my-own", "1st", "a b", "../x", 3])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(UserError, match="lower-case letters"):
        register_estimator(name, mine)
    assert name not in ESTIMATORS


def test_a_name_is_taken_once() -> None:
    register_estimator("mine", mine)
    register_estimator("mine", mine, needs_calibration=True)  # the same, mended
    assert ESTIMATORS["mine"].needs_calibration
    with pytest.raises(UserError, match=r"there is an estimator of this name already.*:mine$"):
        register_estimator("mine", mine_fixed, fixed=True)
    with pytest.raises(UserError, match=r"svd.*already.*svd_estimator"):
        register_estimator("svd", mine)
    with pytest.raises(UserError, match="already"):
        register_estimator("mine", mine, mine_attention)


def test_builders_are_checked() -> None:
    for wrong, right in itertools.product((3, None, "no_module", "module:"), (False, True)):
        if right and wrong is None:
            continue
        builders = (mine, wrong) if right else (wrong, mine)
        with pytest.raises(UserError, match="a function, or 'module:function', is allowed"):
            register_estimator("mine", *builders)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fixed and uses_tokens exclude each other"):
        register_estimator("mine", mine, fixed=True, uses_tokens=True)


def test_a_builder_named_by_text_is_loaded_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_plugin.py").write_text("from tests.sparse.test_estimators import mine\n")
    register_estimator("late", "late_plugin:mine")
    register_estimator("lost", "late_plugin:other")
    block = sparsify(tiny_model("bert"), plain()).sparse_blocks["layer.0"].block
    with pytest.raises(UserError, match="late_plugin:mine cannot be loaded"):
        build_estimator(block, plain(estimator="late"))
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(build_estimator(block, plain(estimator="late")), InputNorm)
    with pytest.raises(UserError, match="late_plugin:other cannot be loaded"):
        build_estimator(block, plain(estimator="lost"))


def test_norms_of_the_package_are_built_by_name() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, plain(qk_sparsity=0.5))
    attention = handle.sparse_attention["layer.0"].attention
    norms = build_norms(attention, plain(estimator="magnitude"), None)
    assert isinstance(norms, FixedNorms)


def test_scores_of_another_length_are_refused() -> None:
    def short(block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None) -> nn.Module:
        return InputNorm(block.lin1.weight.detach()[:-1])

    register_estimator("short", short)
    model = tiny_model("bert")
    sparsify(model, plain(estimator="short"))
    with pytest.raises(UserError, match=r"estimator=short: gave scores of \[36\] for layer.0"):
        model(**tiny_batch())
