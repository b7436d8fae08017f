//! What keeps a machine from being protected, and what the protection does not cover.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Protection works, with a restriction that its user should know.
    Warn,
    /// Protection is not begun.
    Refuse,
}

/// One thing that was found, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it keeps the machine from being protected.
    pub severity: Severity,
    /// What was found, and what was expected.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Finding {
    /// Something that keeps the machine from being protected.
    pub fn refuse(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Refuse, what, advice)
    }

    /// Something to know about.
    pub fn warn(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Warn, what, advice)
    }

    fn new(severity: Severity, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            severity,
            what: what.into(),
            advice: advice.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.advice)
    }
}

/// The machine cannot be protected as it is; holds at least one [`Finding`] with [`Severity::Refuse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// Everything that keeps it from being protected.
    pub reasons: Vec<Finding>,
}

impl Unfit {
    /// For a single reason.
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            reasons: vec![Finding::refuse(what, advice)],
        }
    }

    /// Passes if nothing among the findings refuses.
    pub fn unless_fit(findings: impl IntoIterator<Item = Finding>) -> Result<(), Self> {
        let refused = findings.into_iter().filter(|f| f.severity == Severity::Refuse);
        let reasons: Vec<_> = refused.collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(Self { reasons })
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the machine cannot be protected as it is")?;
        for reason in &self.reasons {
            write!(f, "\n  {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unfit {}

impl From<Finding> for Unfit {
    fn from(finding: Finding) -> Self {
        Self {
            reasons: vec![finding],
        }
    }
}
