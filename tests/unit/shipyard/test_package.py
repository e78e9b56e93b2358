"""``shipyard.<module>`` is imported when it is first named; ``tasks.py`` relies on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import shipyard


def test_a_module_is_imported_by_its_name() -> None:
    assert shipyard.tags.tag("1.2.3", "prod") == "1.2.3"


def test_a_module_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="imagez"):
        _ = shipyard.imagez
    with pytest.raises(AttributeError, match="_private"):
        _ = shipyard._private


def test_a_missing_library_is_called_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wants_a_library.py").write_text("import no_such_library\n")
    monkeypatch.setattr(shipyard, "__path__", [*shipyard.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = shipyard.wants_a_library
    assert "shipyard.wants_a_library" not in sys.modules
