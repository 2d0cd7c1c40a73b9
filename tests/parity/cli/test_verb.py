"""The frame of a verb: what libraries say inside it is printable, too."""

import logging

import pytest
import typer

from parity.cli.verb import verb


def test_what_a_library_logs_during_a_verb_is_printable(caplog: pytest.LogCaptureFixture) -> None:
    @verb
    def load() -> int:
        logging.getLogger("transformers.modeling_utils").warning("weights of %s", "x\x1b]0;y\x07\n::add-mask::z")
        return 1

    with pytest.raises(typer.Exit) as left:
        load()
    assert left.value.exit_code == 1
    assert [record.getMessage() for record in caplog.records] == ["weights of x\\x1b]0;y\\x07\n\\x3a:add-mask::z"]
