"""gRPC's own conventions: health checks and reflection, with grpcio's clients."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import Gateway

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def channel(gateway: Gateway) -> grpc.Channel:
    with grpc.insecure_channel(gateway.address) as channel:
        yield channel


def test_health_of_the_server_and_of_each_model(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE, "digits", "mixed-http"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="digit"), timeout=30)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_tells_the_present_state_and_stays_open(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service, status in [
        ("digits", health_pb2.HealthCheckResponse.SERVING),
        ("digit", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN),
    ]:
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=2)
        assert next(watch).status == status
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_reflection_is_enough_to_make_a_call(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName(SERVICE).FindMethodByName("ModelReady")
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/ModelReady",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    assert call(request(name="digits"), timeout=30).ready


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_are_there(channel: grpc.Channel, version: str) -> None:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.ModelInfer")
    [answer] = call(iter([asked]), timeout=30)
    assert answer.file_descriptor_response.file_descriptor_proto


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    call = channel.unary_unary(f"/{SERVICE}/Guess")
    with pytest.raises(grpc.RpcError) as unknown:
        call(b"", timeout=30)
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert dict(unknown.value.trailing_metadata()).get("x-tidegate-reason") == "route_not_found"
