"""The embedded broker's jars: exact Maven coordinates with a sha256 each, fetched once into a cache.

`jgo.lock.toml` names every jar and its checksum and no address; `make lock` writes it anew.
"""

import hashlib
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from infra.parts import cache_dir
from schemas.errors import ConfigurationError

LOCK = Path(__file__).with_name("jgo.lock.toml")

# Kafka 4.4.0 does not resolve (its kafka-tools-api was never published): stay on 4.3.1.
COORDINATES = "org.apache.kafka:kafka_2.13:4.3.1+org.slf4j:slf4j-simple:1.7.36"

_DOWNLOADS_AT_ONCE = 8
_TIMEOUT_S = 60


class JarError(ConfigurationError):
    """A jar cannot be had, or is not the one that was locked. The message says what to do."""

    code = "jar_error"


@dataclass(frozen=True)
class Jar:
    """One locked file of a Maven repository."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name, as the repository has it."""
        return f"{self.artifact}-{self.version}.jar"

    def path(self, repository: Path) -> Path:
        """Where the file lies in a repository of Maven's layout."""
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.name)


def locked(lock: Path = LOCK) -> list[Jar]:
    """The jars that the lock names, in class path order."""
    rows = tomllib.loads(lock.read_text())["dependencies"]
    return [Jar(row["groupId"], row["artifactId"], row["version"], row["sha256"]) for row in rows]


def fetch(
    jars: list[Jar], cache: Path, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """The paths of `jars`, downloading what is missing; `progress(done, total)` after each download.

    Raises `JarError` where a file cannot be downloaded or its checksum is not the locked one.
    """
    repository = cache / "maven"
    missing = [jar for jar in jars if not _intact(jar, repository)]
    if missing:
        _download(missing, repository, progress)
    return [jar.path(repository) for jar in jars]


def _intact(jar: Jar, repository: Path) -> bool:
    path = jar.path(repository)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def _download(
    missing: list[Jar], repository: Path, progress: Callable[[int, int], None] | None
) -> None:
    from jgo.maven import MavenContext  # 0.2 s of imports that only a first start needs

    context = MavenContext(repo_cache=repository, timeout=_TIMEOUT_S)

    def one(jar: Jar) -> None:
        jar.path(repository).unlink(missing_ok=True)  # torn by a killed download, or tampered with
        try:
            context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except Exception as error:  # jgo lets through whatever its HTTP client raises
            raise JarError(
                f"cannot download {jar.group}:{jar.artifact}:{jar.version}: {type(error).__name__}",
                action="The first start needs the Maven repository: check the network (HTTPS_PROXY "
                "is honoured), or use an existing cluster with `weir up --kafka HOST:PORT`.",
            ) from error
        if not _intact(jar, repository):
            raise JarError(
                f"{jar.name} is not the file that infra/jgo.lock.toml names: its sha256 differs"
            )

    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(one, missing), start=1):
            if progress:
                progress(done, len(missing))


def write_lock(cache: Path, lock: Path = LOCK) -> int:
    """Resolve `COORDINATES` anew and write the lock; the number of jars."""
    from jgo import EnvironmentBuilder
    from jgo.maven import MavenContext
    from jgo.parse import Endpoint

    context = MavenContext(repo_cache=cache / "maven", timeout=_TIMEOUT_S)
    builder = EnvironmentBuilder(context, cache_dir=cache / "jgo")
    wanted = builder._coordinates_to_dependencies(Endpoint.parse(COORDINATES).coordinates)
    direct, transitive = context.resolver.resolve(wanted)
    blocks = []
    for dependency in [*direct, *transitive]:
        artifact = dependency.artifact
        digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
        blocks.append(
            "[[dependencies]]\n"
            f'groupId = "{artifact.groupId}"\nartifactId = "{artifact.artifactId}"\n'
            f'version = "{artifact.version}"\npackaging = "jar"\nsha256 = "{digest}"\n'
        )
    lock.write_text("# Written by `make lock`.\n\n" + "\n".join(sorted(blocks)))
    return len(blocks)


if __name__ == "__main__":
    print(f"{write_lock(cache_dir())} jars locked")
