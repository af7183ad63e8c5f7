"""What stands on a command line: what cannot be is a line and exit code 2."""

import pytest

from sparselora.report import __main__ as report
from tests.cli.lines import MAINS, Invoke, assert_one_line, tiny

LINES: list[tuple[str, list[str]]] = [
    ("max_steps=40", ["max_steps: unknown key", "train.max_steps?"]),
    ("+max_steps=40", ["max_steps: unknown key", "train.max_steps?"]),
    ("sparsity=0.5", ["did you mean ffn_sparsity?"]),
    ("rank=4", ["did you mean svd_rank or lora.r?"]),
    ("ffn_sparsity=0.5,0.7", ["ffn_sparsity=0.5,0.7", "-m"]),
    ("model=minilm,distilbert", ["model=minilm,distilbert", "-m"]),
    ("svd_rank=range(2,4)", ["svd_rank=range(2,4)", "-m"]),
    ("seeds=1,2", ["-m", "'seeds=[1,2]'"]),
    ("data.text_column=a,b", ["-m", 'data.text_column="a,b"\'']),
    ("+sweep=tradeoff", ["+sweep=tradeoff", "-m +sweep=tradeoff"]),
    ("+sweep=headline", ["-m +sweep=headline"]),
    ("sweep=headline", ["sweep: unknown key", "-m +sweep?"]),
    ("+sweep=nothing", ["sweep=nothing", "one of compensation, estimators, headline"]),
    ("hydra.sweeper.n_trials=3", ["hydra.sweeper.n_trials=3", "-m"]),
    ("hydra/launcher=parallel", ["hydra/launcher=parallel", "-m"]),
    ("-m hydra.run.dir=x svd_rank=2,3", ["hydra.run.dir", "hydra.sweep.dir"]),
    ("-m svd_rank=2,3 svd_rank=4", ["svd_rank", "twice"]),
    ("-m model=glob(x*)", ["model=glob(x*)", "matches nothing"]),
    ("-m hydra.sweep.subdir=x svd_rank=2,3", ["hydra.sweep.subdir=x", "${hydra.job.num}"]),
    ("-m +hydra.sweeper.n_trials=3 svd_rank=2,3", ["hydra.sweeper.n_trials", "search"]),
    ("-m +sweep=headline hydra.sweeper.parms=3", ["hydra.sweeper.parms", "params?"]),
    ("experiment=dense ffn_sparsity=0.5", ["ffn_sparsity=0.5", "experiment=dense"]),
    ("experiment=dense qk_sparsity=0.5", ["qk_sparsity=0.5", "experiment=dense"]),
    ("experiment=dense layer_vo_sparsity={layer.0:0.5}", ["layer_vo_sparsity", "dense"]),
    ("experiment=dense layer_sparsity={layer.1:0.5}", ["layer_sparsity", "dense"]),
    ("experiment=dense +layer_sparsity.layer=0.5", ["layer_sparsity", "dense"]),
    ("experiment=dense schedule=optimized", ["schedule=optimized", "experiment=dense"]),
    ("-m experiment=optimized,dense vo_sparsity=0.2", ["vo_sparsity=0.2", "dense"]),
    ("data.text_column=a=b", ["data.text_column=a=b", "'data.text_column=\"a=b\"'"]),
    ("data.path=a(1).csv", ["'data.path=\"a(1).csv\"'"]),
    ("data.path=~nosuchuser/x.csv", ["'data.path=\"~nosuchuser/x.csv\"'"]),
    ('data.path="~nosuchuser/x.csv"', ["data.path=~nosuchuser/x.csv", "home"]),
    ('train.resume="~nosuchuser/x"', ["train.resume=~nosuchuser/x", "home"]),
    ("data.path=", ["data.path=", "needed"]),
    ("svd_rank = 4", ["svd_rank: KEY=VALUE", "without blanks"]),
    ("optimized", ["optimized: KEY=VALUE", "experiment=optimized"]),
    ("report outputs", ["report: is a command of its own", "sparselora.report"]),
    ("=4", ["=4: KEY=VALUE"]),
    ("model=[minilm,distilbert]", ["model=[minilm,distilbert]", "one of bert-base"]),
    ("train=null", ["train=null", "one of default, study"]),
    ("seeds=3", ["seeds=3", "a list"]),
    ("svd_rank=${foo}", ["foo", "svd_rank"]),
    ("hydra.foo=1", ["hydra.foo: unknown key"]),
    ("hydra.searchpath=[nowhere]", ["hydra.searchpath=nowhere", "no such folder"]),
    ("+experiment=dense", ["experiment"]),
    ("--nonsense", ["--nonsense: unknown flag"]),
    ("--multi-run", ["did you mean --multirun?"]),
    ("--svd_rank=4", ["settings have no dashes: svd_rank=4"]),
    ("--config-dir nowhere", ["--config-dir nowhere", "no such folder"]),
    ("--config-dir nowhere -m svd_rank=2,3", ["--config-dir nowhere", "no such folder"]),
    ("--config-path nowhere", ["--config-path nowhere", "no such folder"]),
    ("--config-name nothing", ["'nothing'"]),
    ("--experimental-rerun nowhere", ["--experimental-rerun nowhere", "No such file"]),
    ("--experimental-rerun nowhere -m", ["--experimental-rerun", "-m"]),
    ("--run -m", ["--run --multirun"]),
    ("--resolve", ["--resolve"]),
    ("--cfg foo", ["--cfg", "job"]),
]


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_a_line_that_is_wrong(
    invoke: Invoke, tiny_overrides: list[str], name: str, line: str, words: list[str]
) -> None:
    if name == "bench" and line.startswith(("train.resume", "seeds")):
        pytest.skip("a bench has none of these")
    given = tuple(line.split())
    assert_one_line(invoke(*tiny(tiny_overrides, given, name), *given, main=MAINS[name]), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere", ["nowhere", "no such folder"]),
        ("--nonsense", ["--nonsense: unknown flag"]),
        ("--recommnd max_drop=1", ["did you mean --recommend?"]),
        ("--recommend", ["--recommend"]),
        ("--recommend foo", ["--recommend foo", "max_drop=POINTS"]),
        ("--compare a", ["--compare"]),
        ("--compare a b", ["a: no such folder"]),
        ("--out", ["--out"]),
        ("sqlite:///nowhere.db", ["sqlite:///nowhere.db"]),
        ("svd_rank=4", ["svd_rank=4"]),
    ],
)
def test_a_line_of_the_report_that_is_wrong(invoke: Invoke, line: str, words: list[str]) -> None:
    assert_one_line(invoke(main=lambda: report.main(line.split())), *words)
