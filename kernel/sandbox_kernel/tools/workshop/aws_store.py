"""The store for teams: documents in a DynamoDB table, artifacts in an S3 bucket.

Keys of the table (``pk``, ``sk``): a document is ``O#owner`` / ``T#name``; who uses an artifact is ``D#digest`` /
``U#owner/name``; the artifact itself, with the number of its users, ``D#digest`` / ``A``. A document and its uses
change in one transaction. An artifact is marked before its object is deleted, so that nobody begins to use it
meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sandbox_kernel.errors import ToolConflictError, ToolStorageError

from .documents import Document
from .store import ToolStore

LEASE = 60.0
"""Seconds after which a deletion that was begun belongs to whoever comes next."""
HASTE = 20.0
"""Seconds within which who began it must come to the object; later than that he stops, long before the lease ends."""
WAIT = 0.2

T = TypeVar("T")
Item = dict[str, Any]


class AwsStore(ToolStore):
    """Works with boto3 in threads. Credentials come from the SDK's own chain."""

    def __init__(self, table: str, bucket: str, *, region: str = "", endpoint_url: str = "") -> None:
        import boto3
        from botocore.config import Config

        retries: Any = {"mode": "adaptive", "total_max_attempts": 6}
        config = Config(retries=retries, connect_timeout=5, read_timeout=10)
        options: Any = {"region_name": region or None, "endpoint_url": endpoint_url or None, "config": config}
        self._table, self._bucket = table, bucket
        self._dynamo: Any = boto3.Session().client("dynamodb", **options)
        self._s3: Any = boto3.Session().client("s3", **options)

    async def load(self, owner: str, name: str) -> Document | None:
        item = await self._do(lambda: self._get(f"O#{owner}", f"T#{name}"))
        return Document.from_json(item["document"]["S"]) if item else None

    async def documents(self, owner: str | None = None) -> Sequence[Document]:
        def work() -> list[Document]:
            items = self._query(f"O#{owner}") if owner is not None else self._scan("O#")
            return sorted(
                (Document.from_json(item["document"]["S"]) for item in items), key=lambda one: (one.owner, one.name)
            )

        return await self._do(work)

    async def save(self, document: Document, expected: int) -> None:
        def work() -> None:
            old = self._get(f"O#{document.owner}", f"T#{document.name}")
            before = Document.from_json(old["document"]["S"]).digests if old else frozenset()
            if (int(old["revision"]["N"]) if old else 0) != expected:
                raise _conflict(document)
            key = _key(f"O#{document.owner}", f"T#{document.name}")
            content = {"document": {"S": document.to_json()}, "revision": {"N": str(document.revision)}}
            put = {"Put": {"TableName": self._table, "Item": {**key, **content}, **_revision_is(expected)}}
            self._transact(document, [put, *self._uses(document, before, document.digests)])

        await self._do(work)

    async def delete(self, document: Document) -> None:
        def work() -> None:
            key = _key(f"O#{document.owner}", f"T#{document.name}")
            delete = {"Delete": {"TableName": self._table, "Key": key, **_revision_is(document.revision)}}
            self._transact(document, [delete, *self._uses(document, document.digests, frozenset())])

        await self._do(work)

    def _uses(self, document: Document, before: frozenset[str], after: frozenset[str]) -> list[Item]:
        """Return the steps of a transaction by which a document uses other artifacts than before."""
        steps: list[Item] = []
        for digest in sorted(before ^ after):
            key = _key(f"D#{digest}", f"U#{document.owner}/{document.name}")
            user = {"owner": {"S": document.owner}, "name": {"S": document.name}}
            if digest in after:
                steps.append({"Put": {"TableName": self._table, "Item": {**key, **user}}})
            else:
                steps.append({"Delete": {"TableName": self._table, "Key": key}})
            steps.append(
                {
                    "Update": {
                        "TableName": self._table,
                        "Key": _key(f"D#{digest}", "A"),
                        "UpdateExpression": "ADD user_count :n, use_count :used",
                        "ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(deleting_since)",
                        "ExpressionAttributeValues": {
                            ":n": {"N": "1" if digest in after else "-1"},
                            ":used": {"N": "1" if digest in after else "0"},
                        },
                    }
                }
            )
        return steps

    async def users(self, digest: str) -> Sequence[tuple[str, str]]:
        def work() -> list[tuple[str, str]]:
            items = self._query(f"D#{digest}", "U#")
            return sorted((item["owner"]["S"], item["name"]["S"]) for item in items)

        return await self._do(work)

    async def put_artifact(self, digest: str, data: bytes) -> bool:
        deadline = time.monotonic() + 2 * LEASE
        while True:
            item = await self._do(lambda: self._get(f"D#{digest}", "A"))
            if item and "deleting_since" not in item:
                return False
            if item is None:
                return await self._do(lambda: self._put_new(digest, data))
            if time.time() - float(item["deleting_since"]["N"]) > LEASE:
                await self._do(lambda: self._finish_drop(digest))
            elif time.monotonic() > deadline:
                raise ToolStorageError(f"The artifact {digest} is being deleted by somebody for very long; try later.")
            else:
                await asyncio.sleep(WAIT)

    def _put_new(self, digest: str, data: bytes) -> bool:
        # The object first: what the table names is there.
        self._s3.put_object(Bucket=self._bucket, Key=_object(digest), Body=data, ContentType="application/json")
        item = {**_key(f"D#{digest}", "A"), "user_count": {"N": "0"}, "use_count": {"N": "0"}, "digest": {"S": digest}}
        try:
            self._dynamo.put_item(TableName=self._table, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except self._dynamo.exceptions.ConditionalCheckFailedException:
            # Somebody else has put the same.
            return False
        if self._body(digest) is None:
            # Who was dropping it when it was put took the object for the one that was to go.
            self._s3.put_object(Bucket=self._bucket, Key=_object(digest), Body=data, ContentType="application/json")
        return True

    async def get_artifact(self, digest: str) -> bytes | None:
        return await self._do(lambda: self._body(digest))

    def _body(self, digest: str) -> bytes | None:
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=_object(digest))
        except self._s3.exceptions.NoSuchKey:
            return None
        return bytes(found["Body"].read())

    async def drop_artifact(self, digest: str) -> bool:
        def work() -> bool:
            began = time.monotonic()
            try:
                self._dynamo.update_item(
                    TableName=self._table,
                    Key=_key(f"D#{digest}", "A"),
                    UpdateExpression="SET deleting_since = :now",
                    ConditionExpression=(
                        "user_count = :none AND (attribute_not_exists(deleting_since) OR deleting_since < :stale)"
                    ),
                    ExpressionAttributeValues={
                        ":now": {"N": repr(time.time())},
                        ":stale": {"N": repr(time.time() - LEASE)},
                        ":none": {"N": "0"},
                    },
                )
            except self._dynamo.exceptions.ConditionalCheckFailedException:
                if self._get(f"D#{digest}", "A") is not None or not self._marked(digest):
                    return False
            if time.monotonic() - began > HASTE:
                raise ToolStorageError("DynamoDB answers too slowly to delete an artifact safely; try again.")
            self._finish_drop(digest)
            return True

        return await self._do(work)

    def _marked(self, digest: str) -> bool:
        """Mark an artifact that has an object at most, as a crash leaves it; return whether nobody put it meanwhile."""
        marker = {"user_count": {"N": "0"}, "use_count": {"N": "0"}, "deleting_since": {"N": repr(time.time())}}
        item = {**_key(f"D#{digest}", "A"), **marker}
        try:
            self._dynamo.put_item(TableName=self._table, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except self._dynamo.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _finish_drop(self, digest: str) -> None:
        self._s3.delete_object(Bucket=self._bucket, Key=_object(digest))
        try:
            self._dynamo.delete_item(
                TableName=self._table,
                Key=_key(f"D#{digest}", "A"),
                ConditionExpression="attribute_exists(deleting_since)",
            )
        except self._dynamo.exceptions.ConditionalCheckFailedException:
            # Somebody else has finished it.
            return

    async def artifacts(self) -> Sequence[str]:
        def work() -> list[str]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix="artifacts/")
            keys = (item["Key"] for page in pages for item in page.get("Contents", ()))
            return sorted(key.removeprefix("artifacts/").removesuffix(".json") for key in keys)

        return await self._do(work)

    async def count_use(self, digest: str) -> None:
        def work() -> None:
            self._dynamo.update_item(
                TableName=self._table,
                Key=_key(f"D#{digest}", "A"),
                UpdateExpression="ADD use_count :one",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )

        await self._do(work)

    async def uses(self, digest: str) -> int:
        item = await self._do(lambda: self._get(f"D#{digest}", "A"))
        return int(item["use_count"]["N"]) if item else 0

    async def close(self) -> None:
        await asyncio.to_thread(self._dynamo.close)
        await asyncio.to_thread(self._s3.close)

    # ---- calls

    def _get(self, pk: str, sk: str) -> Item | None:
        found: Item = self._dynamo.get_item(TableName=self._table, Key=_key(pk, sk), ConsistentRead=True)
        return found.get("Item")

    def _query(self, pk: str, begins: str = "") -> list[Item]:
        pages = self._dynamo.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk" + (" AND begins_with(sk, :sk)" if begins else ""),
            ExpressionAttributeValues={":pk": {"S": pk}, **({":sk": {"S": begins}} if begins else {})},
            ConsistentRead=True,
        )
        return [item for page in pages for item in page["Items"]]

    def _scan(self, begins: str) -> list[Item]:
        pages = self._dynamo.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="begins_with(pk, :pk)",
            ExpressionAttributeValues={":pk": {"S": begins}},
            ConsistentRead=True,
        )
        return [item for page in pages for item in page["Items"]]

    def _transact(self, document: Document, steps: list[Item]) -> None:
        try:
            self._dynamo.transact_write_items(TransactItems=steps)
        except self._dynamo.exceptions.TransactionCanceledException as exc:
            raise _conflict(document) from exc

    async def _do(self, work: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        def done() -> T:
            try:
                return work()
            except (BotoCoreError, ClientError) as exc:
                raise ToolStorageError(
                    f"The store of tools (table {self._table}, bucket {self._bucket}) cannot be used: {exc}"
                ) from exc

        return await asyncio.to_thread(done)


def create_table(client: Any, table: str) -> None:
    """Make the table that the store needs."""
    client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )


def _key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _object(digest: str) -> str:
    return f"artifacts/{digest}.json"


def _revision_is(expected: int) -> Item:
    if not expected:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    return {
        "ConditionExpression": "revision = :expected",
        "ExpressionAttributeValues": {":expected": {"N": str(expected)}},
    }


def _conflict(document: Document) -> ToolConflictError:
    return ToolConflictError(
        f"The tool {document.name!r}, or an artifact of it, was changed by somebody else meanwhile; look at it again."
    )
