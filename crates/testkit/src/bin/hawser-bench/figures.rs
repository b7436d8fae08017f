//! What was measured, for people and for machines.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Which way is better.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// Figures in the order of their measuring.
#[derive(Default)]
pub(crate) struct Figures(Vec<(String, &'static str, Better, f64)>);

impl Figures {
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, better: Better, value: f64) {
        println!("  {name:<40} {value:>12.3} {unit}");
        self.0.push((name.into(), unit, better, value));
    }

    /// Writes them to `bench/results/NAME.json`.
    pub(crate) fn write(&self, name: &str) -> Result<()> {
        let figures: Vec<Value> = self
            .0
            .iter()
            .map(|(name, unit, better, value)| {
                let better = match better {
                    Better::Higher => "higher",
                    Better::Lower => "lower",
                };
                json!({ "name": name, "unit": unit, "better": better, "hawser": value, "peers": {} })
            })
            .collect();
        let path = format!("bench/results/{name}.json");
        fs::create_dir_all("bench/results")?;
        let text = serde_json::to_string_pretty(&json!({ "figures": figures }))?;
        fs::write(&path, text + "\n").with_context(|| path.clone())?;
        println!("\nwritten to {path}");
        Ok(())
    }
}

/// The middle one.
pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
