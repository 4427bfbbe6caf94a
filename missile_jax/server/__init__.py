"""The door: Open Inference Protocol v2 over HTTP and gRPC.

From the inside out: `tensors` (one array on the wire), `codec` (a request and a response),
`dataplane` (what a front end may ask of a `Runtime`), `http` (routes and status codes), `protocol`
(a connection) and `serve` (a running server). Only the last three know HTTP; `grpc` starts from
`dataplane` too.
"""
