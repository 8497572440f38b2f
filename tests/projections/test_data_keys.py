"""A key that was not read yet is not an erased one."""

from __future__ import annotations

import os
import threading

import msgspec
import pytest

from projections.data_keys import YOUNG_MS, DataKeys
from schemas.errors import Unavailable
from schemas.identity import uuid7, uuid7_ms
from schemas.privacy import MasterKey


@pytest.mark.req("GEN-05", "BEY-10")
def test_a_young_key_is_waited_for_and_an_old_one_is_gone() -> None:
    keys = DataKeys()
    event, _ = MasterKey(os.urandom(32)).create("anna")
    with pytest.raises(Unavailable, match="not been read"):
        keys.find(event.data_key_id)
    keys.view.caught_up.set()
    late = threading.Timer(0.2, keys.view.entries.__setitem__, (event.data_key_id, event))
    late.start()
    assert keys.find(event.data_key_id) is event
    late.join()
    old = msgspec.structs.replace(
        event, data_key_id=uuid7(uuid7_ms(event.data_key_id) - 2 * YOUNG_MS)
    )
    assert keys.find(old.data_key_id) is None
    assert keys.find("no uuid") is None
