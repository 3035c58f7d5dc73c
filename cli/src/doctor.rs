//! `doctor`: what this machine can do, and how to get the rest.

use crate::status::Status;
use clap::Args;
use ringfence::{Diagnosis, Layer, LayerStatus};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn execute(self) -> anyhow::Result<Status> {
        let diagnosis = ringfence::doctor();
        let text = if self.json {
            format!("{}\n", as_json(&diagnosis))
        } else {
            as_text(&diagnosis)
        };
        crate::text::say(&text)?;
        let usable = diagnosis.process_usable() || diagnosis.vm_usable();
        Ok(if usable { Status::Success } else { Status::Own })
    }
}

fn as_json(diagnosis: &Diagnosis) -> serde_json::Value {
    let layers = diagnosis.layers.iter().filter(|state| state.is_active());
    let engines = diagnosis.engines.iter().map(|state| {
        json!({"engine": state.engine.to_string(), "usable": state.problem.is_none(), "why": state.problem})
    });
    json!({
        "process": {
            "usable": diagnosis.process_usable(),
            "layers": layers.map(|state| state.layer.name()).collect::<Vec<_>>(),
            "missing": crate::json::missing(&diagnosis.layers),
        },
        "vm": {
            "usable": diagnosis.vm_usable(),
            "engines": engines.collect::<Vec<_>>(),
            "image": {"path": diagnosis.image.as_ref().ok(), "why": diagnosis.image.as_ref().err()},
        },
    })
}

fn as_text(diagnosis: &Diagnosis) -> String {
    let verdict = |usable| if usable { "usable" } else { "not usable" };
    let process = verdict(diagnosis.process_usable());
    let mut lines = vec![format!("process isolation: {process}")];
    lines.extend(diagnosis.layers.iter().map(|state| match &state.status {
        LayerStatus::Active => format!("  + {}", state.layer),
        LayerStatus::Missing { why } => {
            let required = Layer::REQUIRED.contains(&state.layer);
            let required = if required { " (required)" } else { "" };
            format!("  - {}{required}: {why}", state.layer)
        }
    }));
    lines.push(format!("vm isolation: {}", verdict(diagnosis.vm_usable())));
    lines.extend(diagnosis.engines.iter().map(|state| match &state.problem {
        None => format!("  + engine {}", state.engine),
        Some(why) => format!("  - engine {}: {why}", state.engine),
    }));
    lines.push(match &diagnosis.image {
        Ok(path) => format!("  + image {}", path.display()),
        Err(why) => format!("  - image: {why}"),
    });
    lines.join("\n") + "\n"
}
