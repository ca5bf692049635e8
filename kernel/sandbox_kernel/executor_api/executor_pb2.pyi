from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GreetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GreetReply(_message.Message):
    __slots__ = ("version", "protocol", "owner", "draining")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    version: str
    protocol: int
    owner: str
    draining: bool
    def __init__(self, version: _Optional[str] = ..., protocol: _Optional[int] = ..., owner: _Optional[str] = ..., draining: bool = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("kernel_arguments", "label")
    KERNEL_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    kernel_arguments: _containers.RepeatedScalarFieldContainer[str]
    label: str
    def __init__(self, kernel_arguments: _Optional[_Iterable[str]] = ..., label: _Optional[str] = ...) -> None: ...

class SandboxRequest(_message.Message):
    __slots__ = ("sandbox_id",)
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    def __init__(self, sandbox_id: _Optional[str] = ...) -> None: ...

class SandboxInfo(_message.Message):
    __slots__ = ("sandbox_id", "state", "created", "isolation", "label", "linked", "idle", "details", "closes", "owner")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LINKED_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    state: str
    created: float
    isolation: str
    label: str
    linked: bool
    idle: float
    details: _containers.ScalarMap[str, str]
    closes: float
    owner: str
    def __init__(self, sandbox_id: _Optional[str] = ..., state: _Optional[str] = ..., created: _Optional[float] = ..., isolation: _Optional[str] = ..., label: _Optional[str] = ..., linked: bool = ..., idle: _Optional[float] = ..., details: _Optional[_Mapping[str, str]] = ..., closes: _Optional[float] = ..., owner: _Optional[str] = ...) -> None: ...

class CloseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[SandboxInfo]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[SandboxInfo, _Mapping]]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("sandbox_id", "exit_code")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    exit_code: int
    def __init__(self, sandbox_id: _Optional[str] = ..., exit_code: _Optional[int] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("reason", "ended")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    ended: bool
    def __init__(self, reason: _Optional[str] = ..., ended: bool = ...) -> None: ...

class ReadFileRequest(_message.Message):
    __slots__ = ("sandbox_id", "path", "limit")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    path: bytes
    limit: int
    def __init__(self, sandbox_id: _Optional[str] = ..., path: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class FileChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class WriteFileHeader(_message.Message):
    __slots__ = ("sandbox_id", "path", "mode")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    path: bytes
    mode: int
    def __init__(self, sandbox_id: _Optional[str] = ..., path: _Optional[bytes] = ..., mode: _Optional[int] = ...) -> None: ...

class WriteFileChunk(_message.Message):
    __slots__ = ("header", "data", "whole")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    header: WriteFileHeader
    data: bytes
    whole: bool
    def __init__(self, header: _Optional[_Union[WriteFileHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., whole: bool = ...) -> None: ...

class WriteFileReply(_message.Message):
    __slots__ = ("allowed", "written", "stopped")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    allowed: int
    written: int
    stopped: bool
    def __init__(self, allowed: _Optional[int] = ..., written: _Optional[int] = ..., stopped: bool = ...) -> None: ...

class ListFilesRequest(_message.Message):
    __slots__ = ("sandbox_id", "pattern", "recursive", "limit")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    pattern: bytes
    recursive: bool
    limit: int
    def __init__(self, sandbox_id: _Optional[str] = ..., pattern: _Optional[bytes] = ..., recursive: bool = ..., limit: _Optional[int] = ...) -> None: ...

class FileEntry(_message.Message):
    __slots__ = ("path", "kind", "size", "modified", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    kind: str
    size: int
    modified: float
    mode: int
    def __init__(self, path: _Optional[bytes] = ..., kind: _Optional[str] = ..., size: _Optional[int] = ..., modified: _Optional[float] = ..., mode: _Optional[int] = ...) -> None: ...

class FileList(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[FileEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[FileEntry, _Mapping]]] = ...) -> None: ...

class RemoveFileRequest(_message.Message):
    __slots__ = ("sandbox_id", "path", "recursive")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    path: bytes
    recursive: bool
    def __init__(self, sandbox_id: _Optional[str] = ..., path: _Optional[bytes] = ..., recursive: bool = ...) -> None: ...

class RemoveFileReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("sandbox_id", "command")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    command: str
    def __init__(self, sandbox_id: _Optional[str] = ..., command: _Optional[str] = ...) -> None: ...

class RunOutput(_message.Message):
    __slots__ = ("data", "exit_code")
    DATA_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    exit_code: int
    def __init__(self, data: _Optional[bytes] = ..., exit_code: _Optional[int] = ...) -> None: ...

class LinkOpen(_message.Message):
    __slots__ = ("sandbox_id", "heartbeat", "patience")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    heartbeat: float
    patience: float
    def __init__(self, sandbox_id: _Optional[str] = ..., heartbeat: _Optional[float] = ..., patience: _Optional[float] = ...) -> None: ...

class LinkAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LinkClose(_message.Message):
    __slots__ = ("reason", "ended")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    ended: bool
    def __init__(self, reason: _Optional[str] = ..., ended: bool = ...) -> None: ...

class LinkChunk(_message.Message):
    __slots__ = ("open", "data", "close", "alive")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    open: LinkOpen
    data: bytes
    close: LinkClose
    alive: LinkAlive
    def __init__(self, open: _Optional[_Union[LinkOpen, _Mapping]] = ..., data: _Optional[bytes] = ..., close: _Optional[_Union[LinkClose, _Mapping]] = ..., alive: _Optional[_Union[LinkAlive, _Mapping]] = ...) -> None: ...
