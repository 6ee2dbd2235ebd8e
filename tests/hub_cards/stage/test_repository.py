# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Names on the Hub."""

from __future__ import annotations

import pytest

from hub_cards.stage.repository import repository_id


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "<b>", "a" * 97, "a--b", "a..b"])
def test_names_that_no_hub_has(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name on the Hub"):
        repository_id("owner", name)
    assert repository_id("my-hospital", "med-glip-5m") == "my-hospital/med-glip-5m"
