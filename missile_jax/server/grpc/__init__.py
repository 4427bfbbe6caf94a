"""The door over gRPC: `inference.GRPCInferenceService`, as Triton and KServe define it.

From the inside out: `messages` (requests and responses to and from protobuf), `status` (errors to
status codes), `service` (the calls), `health` (readiness) and `server` (a running server). They
need the extra ``missile-jax[grpc]``.
"""
