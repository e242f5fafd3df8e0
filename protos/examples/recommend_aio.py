"""Ask for the lists of several users at once, with asyncio, and go on without those that come too late.

python recommend_aio.py HOST:PORT
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc

USERS = ("u1", "u2", "u3")


async def main(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        slates = await asyncio.gather(*(recommend(stub, user_id) for user_id in USERS))
    for user_id, item_ids in zip(USERS, slates, strict=True):
        print(user_id, *item_ids)


async def recommend(stub: ranking_pb2_grpc.RankingServiceAsyncStub, user_id: str) -> list[str]:
    """Return the items to show; an empty list where the answer failed, and the page shows something else."""
    request = ranking_pb2.RecommendRequest(context=context_pb2.RequestContext(user_id=user_id), max_results=3)
    try:
        slate = await stub.Recommend(request, timeout=0.5)
    except grpc.aio.AioRpcError as error:
        print(f"{user_id}: {error.code().name}: {error.details()}", file=sys.stderr)
        return []
    return [item.item_id for item in slate.items]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
