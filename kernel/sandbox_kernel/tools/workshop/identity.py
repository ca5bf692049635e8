"""Who AWS says that this is."""

from __future__ import annotations

from typing import Any

from sandbox_kernel.errors import ToolStorageError


def caller_identity(region: str, endpoint_url: str) -> str:
    """Return the caller's ARN. Raises ToolStorageError."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client: Any = boto3.Session().client("sts", region_name=region or None, endpoint_url=endpoint_url or None)
        return str(client.get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError) as exc:
        raise ToolStorageError(
            f"AWS does not tell who you are, and WorkshopSettings.owner does not either: {exc}"
        ) from exc
