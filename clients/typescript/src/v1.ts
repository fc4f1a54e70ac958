/** Every message, enum and service of the contract. */
export * from "./gen/lightning_store/v1/attempt_pb.js";
export * from "./gen/lightning_store/v1/attempt_service_pb.js";
export * from "./gen/lightning_store/v1/filter_pb.js";
export * from "./gen/lightning_store/v1/payload_pb.js";
export * from "./gen/lightning_store/v1/resources_pb.js";
export * from "./gen/lightning_store/v1/resources_service_pb.js";
export * from "./gen/lightning_store/v1/rollout_pb.js";
export * from "./gen/lightning_store/v1/rollout_service_pb.js";
export * from "./gen/lightning_store/v1/span_pb.js";
export * from "./gen/lightning_store/v1/span_service_pb.js";
export * from "./gen/lightning_store/v1/store_service_pb.js";
export * from "./gen/lightning_store/v1/worker_pb.js";
export * from "./gen/lightning_store/v1/worker_service_pb.js";
