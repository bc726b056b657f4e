//! What users see of a faulty file, and that the table of keys, the reader and the sample agree.

mod agreement;
mod crd;
mod defeat;
mod faults;
mod kubernetes;
mod mutations;
mod resource;
mod set;
mod whole;

use super::{Config, Report, Source, parse};

fn source(text: &str) -> Source {
    Source { name: "tidegate.yaml".to_owned(), text: text.trim_start_matches('\n').to_owned() }
}

/// Everything that is said about a file, errors or warnings.
fn report(text: &str) -> Report {
    match parse(source(text)) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

fn answer(text: &str) -> String {
    report(text).to_string()
}

fn config(text: &str) -> Config {
    parse(source(text)).unwrap().config
}
