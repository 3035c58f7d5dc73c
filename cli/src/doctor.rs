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
        if self.json {
            println!("{}", as_json(&diagnosis));
        } else {
            print(&diagnosis);
        }
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

fn print(diagnosis: &Diagnosis) {
    let verdict = |usable| if usable { "usable" } else { "not usable" };
    println!("process isolation: {}", verdict(diagnosis.process_usable()));
    for state in &diagnosis.layers {
        match &state.status {
            LayerStatus::Active => println!("  + {}", state.layer),
            LayerStatus::Missing { why } => {
                let required = if Layer::REQUIRED.contains(&state.layer) {
                    " (required)"
                } else {
                    ""
                };
                println!("  - {}{required}: {why}", state.layer);
            }
        }
    }
    println!("vm isolation: {}", verdict(diagnosis.vm_usable()));
    for state in &diagnosis.engines {
        match &state.problem {
            None => println!("  + engine {}", state.engine),
            Some(why) => println!("  - engine {}: {why}", state.engine),
        }
    }
    match &diagnosis.image {
        Ok(path) => println!("  + image {}", path.display()),
        Err(why) => println!("  - image: {why}"),
    }
}
