#!/bin/sh
# Ask for recommendations from anywhere: buf speaks gRPC and reads the contract from this repository.
# sh recommend.sh HOST:PORT
set -eu
BUF=${BUF:-buf}
cd "$(dirname "$0")/.."
exec "$BUF" curl --protocol grpc --http2-prior-knowledge --schema . \
  -d '{"context": {"userId": "u17"}, "maxResults": 3}' \
  "http://$1/tandem.ranking.v1.RankingService/Recommend"
