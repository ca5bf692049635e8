"""How the service refuses a call: an HTTP status, the error's name in a header, and a message."""

from __future__ import annotations

STATUS = {
    "ValidationException": 400,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
    "ConflictException": 409,
    "ThrottlingException": 429,
    "InternalServerException": 500,
}


class Refusal(Exception):  # noqa: N818 - it is an answer, which only travels like an error
    """An error of the service's model."""

    def __init__(self, name: str, message: str, *, reason: str = "FieldValidationFailed", field_name: str = "") -> None:
        super().__init__(message)
        self.name, self.status = name, STATUS[name]
        self.content: dict[str, object] = {"message": message}
        if name == "ValidationException":
            self.content["reason"] = reason
            if field_name:
                self.content["fieldList"] = [{"name": field_name, "message": message}]
