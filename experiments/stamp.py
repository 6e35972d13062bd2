"""What a result was made with: versions, commit, device, flags."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxpool", "jax", "jaxlib", "flax", "optax", "numpy", "equinox", "torch")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files were changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def stamp() -> dict[str, Any]:
    """Versions, commit, device, default dtype, flags and the time, for the record of a cell."""
    device = jax.local_devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "commit": commit(),
        "device": f"{device.platform}: {device.device_kind}",
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "dtype": str(jax.numpy.zeros(()).dtype),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
