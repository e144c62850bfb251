//! `/openapi.json`, made from the endpoint table and the types' own JSON schemas (OpenAPI 3.1 uses
//! JSON Schema as it is).

use agent_api::{
    ApiError, Event,
    endpoint::{Access, ENDPOINTS, Method},
    openai::{
        ChatRequest, ChatResponse, CompletionRequest, CompletionResponse, EmbeddingRequest,
        EmbeddingResponse, ErrorBody, ModelObjects,
    },
    pull::Pull,
    tasks::TaskNews,
};
use axum::Json;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{follow, ollama, pulls};

pub(super) async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for row in ENDPOINTS {
        let request = (row.request_schema)(&mut generator);
        let response = (row.response_schema)(&mut generator);
        let mut operation = json!({
            "operationId": row.name,
            "summary": row.summary.trim(),
            "responses": responses(&response, &generator.subschema_for::<ApiError>()),
        });
        if row.access == Access::Token {
            operation["security"] = json!([{"token": []}]);
        }
        match row.method {
            Method::Get => operation["parameters"] = parameters(row.path, &request, &generator),
            Method::Post | Method::Patch => {
                let named = path_parameters(row.path, &request, &generator);
                if named.is_empty() {
                    operation["requestBody"] = body(&request);
                } else {
                    // The fields that the path names are read from there; a body need not come.
                    operation["parameters"] = Value::Array(named);
                    operation["requestBody"] = body(&without_path(row.path, &request, &generator));
                    operation["requestBody"]["required"] = json!(false);
                }
            }
        }
        add(&mut paths, row.path, row.method.as_str(), operation);
    }
    add_streams(&mut paths, &mut generator);
    add_openai(&mut paths, &mut generator);
    add_ollama(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "EdgeCoder node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Control paths need the per-install token. /v1 and /api are open on this computer and need the API key from others.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn add(paths: &mut Map<String, Value>, path: &str, method: &str, operation: Value) {
    let item = paths.entry(path).or_insert_with(|| json!({}));
    item[method.to_ascii_lowercase()] = operation;
}

fn body(schema: &Schema) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

fn responses(ok: &Schema, error: &Schema) -> Value {
    json!({
        "200": {"description": "OK", "content": {"application/json": {"schema": ok}}},
        "default": {"description": "An error", "content": {"application/json": {"schema": error}}},
    })
}

/// The fields of a request as parameters: in the path, where that names them, else in the query.
fn parameters(path: &str, schema: &Schema, generator: &SchemaGenerator) -> Value {
    let reference = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    let name = reference.rsplit('/').next().unwrap_or_default();
    let definition = generator.definitions().get(name).or(Some(schema.as_value()));
    let properties = definition.and_then(|d| d.get("properties")).and_then(Value::as_object);
    let parameters = properties.into_iter().flatten().map(|(name, schema)| {
        let in_path = path.contains(&format!("{{{name}}}"));
        let place = if in_path { "path" } else { "query" };
        json!({"name": name, "in": place, "required": in_path, "schema": schema})
    });
    Value::Array(parameters.collect())
}

/// Those of the path only.
fn path_parameters(path: &str, schema: &Schema, generator: &SchemaGenerator) -> Vec<Value> {
    let Value::Array(mut all) = parameters(path, schema, generator) else { return Vec::new() };
    all.retain(|parameter| parameter["in"] == "path");
    all
}

/// The schema of a body without the fields that the path names.
fn without_path(path: &str, schema: &Schema, generator: &SchemaGenerator) -> Schema {
    let reference = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    let name = reference.rsplit('/').next().unwrap_or_default();
    let definition = generator.definitions().get(name).unwrap_or(schema.as_value());
    let mut definition = definition.clone();
    let named = |field: &str| path.contains(&format!("{{{field}}}"));
    if let Some(fields) = definition.get_mut("properties").and_then(Value::as_object_mut) {
        fields.retain(|field, _| !named(field));
    }
    if let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field.as_str().is_none_or(|field| !named(field)));
    }
    Schema::try_from(definition).unwrap_or_default()
}

fn add_streams(paths: &mut Map<String, Value>, generator: &mut SchemaGenerator) {
    let event = generator.subschema_for::<Event>();
    let stream = json!({"description": "Server-sent events: a snapshot, then changes", "content": {"text/event-stream": {"schema": event}}});
    let text = json!({"description": "Metrics", "content": {"application/openmetrics-text": {"schema": {"type": "string"}}}});
    for (path, id, summary, ok) in [
        ("/events", "GetEvents", "A snapshot of the node, then every change.", stream),
        ("/metrics", "GetMetrics", "Metrics for Prometheus.", text),
    ] {
        let operation = json!({"operationId": id, "summary": summary, "responses": {"200": ok}, "security": [{"token": []}]});
        add(paths, path, "get", operation);
    }
    let pull = generator.subschema_for::<Pull>();
    let progress = json!({"description": "Server-sent events, until the pull is settled", "content": {"text/event-stream": {"schema": pull}}});
    let operation = json!({
        "operationId": "GetPullStream",
        "summary": "One pull now and after every change.",
        "parameters": [{"name": "id", "in": "query", "required": true, "schema": {"type": "string"}}],
        "responses": {"200": progress},
        "security": [{"token": []}],
    });
    add(paths, pulls::PATH, "get", operation);
    let news = generator.subschema_for::<TaskNews>();
    let lines = json!({"description": "One document a line, until the task ended", "content": {"application/x-ndjson": {"schema": news}}});
    let operation = json!({
        "operationId": "FollowTask",
        "summary": "A task as it is, then as it happens.",
        "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}],
        "responses": {"200": lines},
        "security": [{"token": []}],
    });
    add(paths, follow::PATH, "get", operation);
}

/// Ollama's API is described by its own documentation; here is which of its paths there are.
fn add_ollama(paths: &mut Map<String, Value>) {
    for (method, path) in ollama::PATHS {
        let name = path.trim_start_matches('/');
        let operation = json!({
            "operationId": format!("Ollama_{name}"),
            "summary": "As in Ollama's API.",
            "responses": {"default": {"description": "JSON, one document or one a line"}},
        });
        add(paths, &format!("/api{path}"), method, operation);
    }
}

fn add_openai(paths: &mut Map<String, Value>, generator: &mut SchemaGenerator) {
    fn post<Q: JsonSchema, A: JsonSchema>(
        paths: &mut Map<String, Value>,
        generator: &mut SchemaGenerator,
        path: &str,
        id: &str,
    ) {
        let request = generator.subschema_for::<Q>();
        let answer = generator.subschema_for::<A>();
        let error = generator.subschema_for::<ErrorBody>();
        let operation = json!({
            "operationId": id,
            "summary": "As in OpenAI's API.",
            "requestBody": body(&request),
            "responses": responses(&answer, &error),
        });
        add(paths, path, "post", operation);
    }
    post::<ChatRequest, ChatResponse>(paths, generator, "/v1/chat/completions", "Chat");
    post::<CompletionRequest, CompletionResponse>(paths, generator, "/v1/completions", "Complete");
    post::<EmbeddingRequest, EmbeddingResponse>(paths, generator, "/v1/embeddings", "Embed");
    let list = generator.subschema_for::<ModelObjects>();
    let error = generator.subschema_for::<ErrorBody>();
    let operation = json!({"operationId": "ListOpenAiModels", "summary": "As in OpenAI's API.", "responses": responses(&list, &error)});
    add(paths, "/v1/models", "get", operation);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` leads somewhere.
    fn check_references(value: &Value, document: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                map.values().for_each(|value| check_references(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| check_references(value, document)),
            _ => {}
        }
    }

    #[test]
    fn the_document_names_every_endpoint_and_no_missing_schema() {
        let document = build();
        for row in ENDPOINTS {
            let operation = &document["paths"][row.path][row.method.as_str().to_lowercase()];
            assert!(operation["summary"].is_string(), "{} is missing", row.path);
        }
        check_references(&document, &document);
        assert_eq!(document["paths"]["/activity"]["get"]["parameters"][0]["in"], "query");
        let peer = &document["paths"]["/agent-mesh/peers/{id}"]["get"]["parameters"];
        assert_eq!((&peer[0]["name"], &peer[0]["in"]), (&json!("id"), &json!("path")));
        assert_eq!(peer[0]["required"], true);
    }
}
