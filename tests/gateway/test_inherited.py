"""Dialects of other distributions inherit ours, in compiled workers too, and say what is different."""

from gateway.dialects.neutral import Opening
from gateway.dialects.openai_base import OneShot
from gateway.dialects.openai_chat import OPENAI, OpenAIChat
from gateway.dialects.reading import read_object


class Searching(OneShot):
    name = "searching"
    surface = "search"
    path = "/search"


class Renamed(OpenAIChat):
    name = "renamed"
    models_path = None

    def path_of(self, model: str, stream: bool) -> str:
        return f"/{model}{super().path_of(model, stream)}"


def test_constants_of_an_heir_are_seen() -> None:
    searching = Searching()
    assert (searching.capability, searching.path_of("m", stream=False)) == ("search", "/search")
    opening: Opening = searching.open(read_object(b'{"model":"m"}'))
    assert opening.model == "m"


def test_methods_of_an_heir_are_called() -> None:
    renamed = Renamed()
    assert renamed.path_of("m", stream=True) == "/m/chat/completions"
    assert (renamed.name, renamed.models_path) == ("renamed", None)
    assert (OPENAI.name, OPENAI.models_path) == ("openai", "/models")
