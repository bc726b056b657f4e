//! `tidegate predict`: one call, with the given body or a sample built from the model's metadata.

use std::{io::Read as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::{
    client::{block_on, send},
    output::Output,
    terminal::{complain, print},
};

/// Longest a call may take: a cold start included.
const PATIENCE: Duration = Duration::from_secs(300);
/// Length of a dimension that the model leaves open.
const OPEN_DIMENSION: i64 = 1;

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    model: String,
    /// A V2 request body, @FILE or - for standard input; a body of zeros without it
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// Address of the gateway
    #[arg(long, env = "TIDEGATE_ADDRESS", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    address: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn run(args: PredictArgs) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let body = match &args.data {
            Some(data) => given(data)?,
            None => sample(&args).await?,
        };
        let path = format!("/v2/models/{}/infer", args.model);
        let reply = send(&args.address, &path, Some(body), PATIENCE).await?;
        let answer = serde_json::from_slice::<Value>(&reply.body);
        let text = match (&answer, args.output) {
            (Ok(answer), _) => format!("{answer:#}\n"),
            (Err(_), _) => String::from_utf8_lossy(&reply.body).into_owned(),
        };
        print(&text)?;
        if args.output == Output::Text {
            for name in ["x-tidegate-cold-start", "server-timing", "x-tidegate-reason"] {
                if let Some(value) = reply.headers.get(name).and_then(|value| value.to_str().ok()) {
                    complain(&format!("{name}: {value}"))?;
                }
            }
        }
        Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn given(data: &str) -> anyhow::Result<Bytes> {
    if data == "-" {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).context("reading standard input")?;
        return Ok(text.into());
    }
    match data.strip_prefix('@') {
        Some(file) => {
            let file = PathBuf::from(file);
            Ok(std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?.into())
        }
        None => Ok(Bytes::copy_from_slice(data.as_bytes())),
    }
}

/// One row of zeros (empty texts, false) for every input.
async fn sample(args: &PredictArgs) -> anyhow::Result<Bytes> {
    let path = format!("/v2/models/{}", args.model);
    let reply = send(&args.address, &path, None, PATIENCE).await?;
    let metadata: Value = serde_json::from_slice(&reply.body).context("the model's metadata is not JSON")?;
    if let Some(error) = metadata.get("error").and_then(Value::as_str) {
        anyhow::bail!("{error}");
    }
    let inputs = metadata.get("inputs").and_then(Value::as_array).into_iter().flatten().map(zeros);
    Ok(json!({ "inputs": inputs.collect::<Vec<_>>() }).to_string().into())
}

fn zeros(input: &Value) -> Value {
    let dimensions = input.get("shape").and_then(Value::as_array).into_iter().flatten();
    let shape: Vec<i64> =
        dimensions.map(|d| d.as_i64().filter(|d| *d >= 0).unwrap_or(OPEN_DIMENSION)).collect();
    let datatype = input.get("datatype").and_then(Value::as_str).unwrap_or_default();
    let zero = match datatype {
        "BYTES" => json!(""),
        "BOOL" => json!(false),
        _ => json!(0),
    };
    let elements = shape.iter().product::<i64>().clamp(0, 1 << 20) as usize;
    json!({ "name": input.get("name"), "datatype": datatype, "shape": shape, "data": vec![zero; elements] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_one_row_of_the_right_shape_and_type() {
        let input = json!({ "name": "x", "datatype": "FP32", "shape": [-1, 3] });
        assert_eq!(
            zeros(&input),
            json!({ "name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0] })
        );
        let text = json!({ "name": "t", "datatype": "BYTES", "shape": [-1] });
        assert_eq!(zeros(&text)["data"], json!([""]));
    }
}
