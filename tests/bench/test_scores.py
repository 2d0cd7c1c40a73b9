from typing import Any

from bench.scores import joined_scores, made_for_one_case, made_for_row


def row(name: str, killed: str, **facts: Any) -> dict[str, Any]:
    """A defect or harmless run that the gate stops on the levels named, `o` outputs and `d` drift."""
    levels = {"outputs": "o" in killed, "outputs+drift": bool(killed)}
    return {"id": name, "case": "c", "killed": bool(killed), "killed_by_bits": True, "killed_by": levels} | facts


def score(machine: str, rows: list[dict[str, Any]], harmless: list[dict[str, Any]], limits_of: str = "c") -> Any:
    levels = {"outputs": 0, "outputs+drift": 0}
    head = {"kind": "mutation", "limits_of": limits_of, "date": "2026-01-02", "killed_by_levels": levels}
    return head | {"environment": {"cpu": machine}, "rows": rows, "benign_rows": harmless}


def test_pieces_of_one_case_count_what_each_has_tried_once() -> None:
    plain = {"located": True, "equivalent": False}
    first = score(
        "A",
        [
            row("key_norm_eps_default", "od", **plain),
            row("gelu_exact", "", located=False, equivalent=False),
            row("frames_rounded", "", equivalent=True),
        ],
        [row("repeated", ""), row("one_thread", "d")],
    )
    gone = row("of_another_time", "", located=False, equivalent=True)
    second = score(
        "B",
        [gone, row("gelu_exact", "d", **plain), row("lora_at_full_strength", "d", located=False, equivalent=False)],
        [row("repeated", "")],
    )
    other = score("A", [], [], limits_of="another")
    found, unchanged = joined_scores([first, other, second])
    assert unchanged is other
    assert (found["defects"], found["killed"], found["located"]) == (3, 3, 2)
    assert found["equivalents"] == ["frames_rounded"] and found["benign_runs"] == 2
    assert found["killed_by_levels"] == {"outputs": 1, "outputs+drift": 3}
    assert found["false_alarms_by_levels"] == {"outputs": 0, "outputs+drift": 1}
    assert [one["cpu"] for one in found["environments"]] == ["A", "B"]


def test_a_case_that_all_defects_were_made_for_has_a_row_of_its_own() -> None:
    one = score("A", [row("a", "od", case="as it is"), row("b", "d", case="as it is")], [row("repeated", "d")])
    one |= {"killed_by_levels": {"outputs": 1, "outputs+drift": 2}, "defects": 2, "killed": 2, "located": 1}
    one |= {"false_alarms_by_levels": {"outputs": 0, "outputs+drift": 3}, "benign_runs": 7}
    assert made_for_one_case(one) and not made_for_one_case(one | {"rows": [*one["rows"], row("c", "o")]})
    assert made_for_row(one) == ("c", "1 of 2", "2 of 2", "1 of 2", "3 of 7")
