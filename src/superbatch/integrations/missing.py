"""What to say where the package of an adapter is not installed."""

from superbatch.errors import ConfigError


def missing(package: str, extra: str) -> ConfigError:
    """The error for an adapter of ``package``, which ``superbatch[extra]`` installs."""
    return ConfigError(
        f"this adapter needs {package}, which is not installed; install superbatch[{extra}]"
    )
