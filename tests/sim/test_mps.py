"""Which control program a demo takes, and that nothing of MPS is left when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import CannotStart
from nodeagent.mps.control import PROGRAM
from nodeagent.mps.process import mps_processes
from nodeagent.sim.mps import STAND_IN, choose, end_all, write_stand_in
from tests.mps.support import OTHER, UUID, Daemons, temporary_root
from tests.waiting import eventually, longer


@pytest.fixture
def mps_root() -> Iterator[Path]:
    """A directory with a path that is short enough; what runs below it is ended afterwards."""
    with temporary_root() as root:
        yield root


def make_program(directory: Path, script: str, name: str = PROGRAM) -> Path:
    """A program of this name."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class TestChoice:
    """The program of the daemons."""

    def test_what_is_on_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A control program on PATH that runs is taken, and named."""
        program = make_program(tmp_path / "bin", "exit 0")
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        chosen = choose(None, tmp_path / "work")
        assert chosen.path == str(program)
        assert chosen.told == f"NVIDIA's own program, {program}"
        assert not (tmp_path / "work").exists()

    def test_nothing_on_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is none, the stand-in is made, and said so."""
        monkeypatch.setenv("PATH", str(tmp_path))
        chosen = choose(None, tmp_path / "work")
        assert chosen.told == "a stand-in, since nvidia-cuda-mps-control is not on PATH"
        assert "stand-in" in subprocess.run([chosen.path, "--help"], capture_output=True, text=True, check=True).stdout

    @pytest.mark.parametrize("script", ["exit 127", "#!/nonexistent"])
    def test_one_that_does_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        """One that is there and does not run, as without its libraries, is as good as none."""
        program = make_program(tmp_path / "bin", "exit 127")
        monkeypatch.setenv("PATH", str(program.parent))
        if script.startswith("#!"):
            program.write_text(script)
        chosen = choose(None, tmp_path / "work")
        assert chosen.told == f"a stand-in, since {program} does not run"

    def test_what_was_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is asked for by path or name is taken, though it fail later; `stand-in` is ours, whatever is there."""
        program = make_program(tmp_path / "bin", "exit 3", name="mine")
        make_program(tmp_path / "bin", "exit 0")
        monkeypatch.setenv("PATH", str(program.parent))
        for asked in (str(program), "mine"):
            chosen = choose(asked, tmp_path / "work")
            assert (chosen.path, chosen.told) == (str(program), f"the program that was asked for, {program}")
        assert choose(STAND_IN, tmp_path / "work").told == "a stand-in, as asked for"

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """A program that was asked for and is not there is no reason to take another one."""
        with pytest.raises(CannotStart, match="cannot find /nonexistent/control: there is no such program"):
            choose("/nonexistent/control", tmp_path)

    def test_where_nothing_may_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where programs in temporary files may not run, that is said, with what to do."""
        monkeypatch.setattr(sys, "_base_executable", "/nonexistent/python")
        with pytest.raises(CannotStart, match=r"cannot run programs in .*No such file.*: set TMPDIR to where"):
            write_stand_in(tmp_path)


class TestEnd:
    """Nothing of MPS is left."""

    async def test_all_of_one_root_and_nothing_else(self, mps_root: Path) -> None:
        """The host and the daemons of this root end, those of another one go on."""
        program = write_stand_in(mps_root / "stand-in")
        ours, theirs = (Daemons(mps_root / name, program) for name in ("ours", "theirs"))
        for daemons in (ours, theirs):
            daemons.root.mkdir()
            daemons.start(UUID)
            daemons.start(OTHER)
        (mps_root / "node.yaml").write_text(
            "apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\ngpus: [{model: NVIDIA L4, memory: 24Gi}]\n"
        )
        hosts = [host(daemons.root, mps_root / "node.yaml") for daemons in (ours, theirs)]
        try:
            await eventually(lambda: all((one.root / "observed.json").exists() for one in (ours, theirs)), within=20)
            await end_all(ours.root)
            assert mps_processes(ours.root) == []
            assert hosts[0].wait(longer(5)) == 0
            assert len(mps_processes(theirs.root)) == 2
            assert hosts[1].poll() is None
        finally:
            for one in hosts:
                one.kill()
                one.wait()

    async def test_where_nothing_is(self, tmp_path: Path) -> None:
        """A root that nobody has made is no reason to wait."""
        await end_all(tmp_path / "none")


def host(root: Path, gpus: Path) -> subprocess.Popen[bytes]:
    """An MPS host that nobody has asked for anything."""
    command = [sys.executable, "-m", "nodeagent", "mps-host", "--shm-size=0", "--log-level=error"]
    return subprocess.Popen(
        [*command, f"--mps-root={root}", f"--driver=simulated:{gpus}"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
    )
