from sparselora.report.charts.importance import importance


def test_each_objective_and_parameter_is_a_bar() -> None:
    drawn = importance({"accuracy": {"rank": 0.9, "share": 0.1}, "ms": {"rank": 1.0}})
    (bars,) = drawn["datasets"].values()
    assert [(bar["objective"], bar["parameter"], bar["importance"]) for bar in bars] == [
        ("accuracy", "rank", 0.9),
        ("accuracy", "share", 0.1),
        ("ms", "rank", 1.0),
    ]
