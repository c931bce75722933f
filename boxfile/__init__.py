"""TEXT -> PLAN: the Boxfile language. Pure: opens no file, asks no clock, no network, no process."""

from boxfile.canonical import canonical
from boxfile.diagnostics import render
from boxfile.document import parse
from boxfile.plan import (
    SHELL,
    Base,
    Config,
    CopyStep,
    EnvStep,
    Healthcheck,
    HostBase,
    ImageBase,
    LabelStep,
    MkdirStep,
    Plan,
    RemoveStep,
    RunStep,
    ScratchBase,
    Step,
    SymlinkStep,
    TarballBase,
    UserStep,
    WorkdirStep,
    WriteStep,
)
from boxfile.source import Place, decode

__all__ = [
    "SHELL",
    "Base",
    "Config",
    "CopyStep",
    "EnvStep",
    "Healthcheck",
    "HostBase",
    "ImageBase",
    "LabelStep",
    "MkdirStep",
    "Place",
    "Plan",
    "RemoveStep",
    "RunStep",
    "ScratchBase",
    "Step",
    "SymlinkStep",
    "TarballBase",
    "UserStep",
    "WorkdirStep",
    "WriteStep",
    "canonical",
    "decode",
    "parse",
    "render",
]
