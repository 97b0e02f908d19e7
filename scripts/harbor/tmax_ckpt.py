"""Stand-ins that let Harbor resume a job folder written by `tmax-ckpt score`.

The folder names `tmax_ckpt:Bwrap` as its environment; Harbor has to import something under that
name to refill a trial. This one drives bubblewrap over a plain folder: enough for the fixture
tasks, which only copy files, and no sandbox to trust. Used by scripts/check-harbor-peer.sh.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities

SYSTEM = ["usr", "bin", "sbin", "lib", "lib64"]


class Bwrap(BaseEnvironment):
    @staticmethod
    def type() -> str:
        return "bwrap"

    @property
    def capabilities(self):
        return EnvironmentCapabilities(disable_internet=True)

    def _validate_definition(self):
        pass

    async def start(self, force_build: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="tmax-ckpt-peer-"))
        for name in ["app", "tmp", "logs/agent", "logs/verifier", "logs/artifacts", *SYSTEM]:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        files = self.environment_dir / "files"
        if files.is_dir():
            shutil.copytree(files, self.root / "app", dirs_exist_ok=True)

    async def stop(self, delete: bool):
        shutil.rmtree(self.root, ignore_errors=True)

    def _inside(self, path: str) -> Path:
        return self.root / str(path).lstrip("/")

    async def upload_file(self, source_path, target_path: str):
        target = self._inside(target_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source_path, target)

    async def upload_dir(self, source_dir, target_dir: str):
        shutil.copytree(source_dir, self._inside(target_dir), dirs_exist_ok=True)

    async def download_file(self, source_path: str, target_path):
        shutil.copy(self._inside(source_path), target_path)

    async def download_dir(self, source_dir: str, target_dir):
        shutil.copytree(self._inside(source_dir), target_dir, dirs_exist_ok=True)

    async def exec(self, command, cwd=None, env=None, timeout_sec=None, user=None, **kwargs):
        args = ["bwrap", "--unshare-all", "--die-with-parent", "--bind", self.root, "/"]
        for name in SYSTEM:
            args += ["--ro-bind", f"/{name}", f"/{name}"]
        args += ["--dev", "/dev", "--proc", "/proc", "--chdir", cwd or "/app"]
        for key, value in (env or {}).items():
            args += ["--setenv", key, value]
        child = await asyncio.create_subprocess_exec(
            *map(str, [*args, "bash", "-c", command]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(child.communicate(), timeout_sec)
        return ExecResult(
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            return_code=child.returncode,
        )
