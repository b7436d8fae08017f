//! Ways out as the configuration names them, made into ways that can be dialled.

use std::{fs, path::PathBuf, sync::Arc};

use hawser_session::carrier::{Basic, ConnectProxy, Dialer, Direct, Ways};
use zeroize::Zeroizing;

use crate::config::{CarrierPlan, GatewayPlan};

/// A password file that cannot be used. The message holds nothing of it.
#[derive(Debug, thiserror::Error)]
#[error("the password file {} cannot be read: {source}; it must hold the proxy's password and nothing else", path.display())]
pub struct CarrierError {
    /// Which file.
    pub path: PathBuf,
    /// What the system says.
    pub source: std::io::Error,
}

/// The ways out, in the order of the configuration. Reads password files.
pub fn ways(carriers: &[CarrierPlan]) -> Result<Ways, CarrierError> {
    let dialers = carriers.iter().map(dialer).collect::<Result<_, _>>()?;
    Ok(Ways::new(dialers))
}

/// Those of a gateway: by the configuration, and to the hub beside it by the shortest way.
pub fn of(plan: &GatewayPlan) -> Result<Ways, CarrierError> {
    let ways = ways(&plan.carriers)?;
    Ok(match &plan.beside {
        Some(beside) => ways.beside(beside.hub.clone(), beside.at),
        None => ways,
    })
}

fn dialer(carrier: &CarrierPlan) -> Result<Arc<dyn Dialer>, CarrierError> {
    Ok(match carrier {
        CarrierPlan::Direct => Arc::new(Direct),
        CarrierPlan::Connect {
            host,
            port,
            credentials,
        } => {
            let credentials = match credentials {
                Some((user, path)) => Some(Basic {
                    user: user.clone(),
                    password: password(path)?,
                }),
                None => None,
            };
            Arc::new(ConnectProxy {
                host: host.clone(),
                port: *port,
                credentials,
            })
        }
    })
}

fn password(path: &PathBuf) -> Result<Zeroizing<String>, CarrierError> {
    let text = fs::read_to_string(path).map_err(|source| CarrierError {
        path: path.clone(),
        source,
    })?;
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_end_of_a_password_file_is_no_part_of_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "two words\r\n").unwrap();
        assert_eq!(password(&path).unwrap().as_str(), "two words");
        let missing = ways(&[CarrierPlan::Connect {
            host: "proxy".into(),
            port: 3128,
            credentials: Some(("u".into(), dir.path().join("none"))),
        }]);
        assert!(missing.unwrap_err().to_string().contains("none"));
    }
}
