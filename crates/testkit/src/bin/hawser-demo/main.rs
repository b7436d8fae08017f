//! `make demo`: shows on this machine, with the real binary and real networks, what Hawser claims. Each claim is printed
//! with what was done to prove it; with `ONCE=1` the exit code says whether all held. A further system adds a module with
//! a `show` function of its own.

mod broker;
mod claims;
mod protect;
mod tunnel;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use claims::Claims;

fn main() -> ExitCode {
    let once = std::env::var("ONCE").is_ok_and(|v| !v.is_empty() && v != "0");
    match run(once) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("\nthe demo failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows everything; whether every claim held. What was started ends with this function, also after Ctrl-C.
fn run(once: bool) -> Result<bool> {
    let stop = on_ctrl_c()?;
    let mut claims = Claims::new(stop.clone());
    // Ctrl-C in a terminal also ends a command that is being waited for: that failure is none.
    let tunnel = tunnel::show(&mut claims).or_else(|e| go_on(&stop).and(Err(e)))?;
    let delivery = broker::show(&mut claims).or_else(|e| go_on(&stop).and(Err(e)))?;
    let protection = protect::show(&mut claims).or_else(|e| go_on(&stop).and(Err(e)))?;
    claims.sum_up();
    if once {
        if let Some(delivery) = &delivery {
            delivery.invite()?;
        }
        return Ok(claims.all_held());
    }
    tunnel.invite()?;
    delivery.iter().try_for_each(broker::Delivery::invite)?;
    protection.iter().try_for_each(protect::Protection::invite)?;
    println!("\nIt runs until you press Ctrl-C.");
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(200));
    }
    println!("\nStopping, and removing the networks.");
    Ok(claims.all_held())
}

/// From now on Ctrl-C (and `SIGTERM`) ends nothing by itself; it sets this.
fn on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (own, main) = (stop.clone(), std::thread::current());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        own.store(true, Ordering::Relaxed);
        main.unpark();
    });
    Ok(stop)
}

/// Ends the demo early when asked to.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("stopped; everything that it had started is gone");
    }
    Ok(())
}

/// What is missing to show anything at all.
fn need(programs: &[&str]) -> Result<()> {
    let missing = programs.iter().find(|p| !hawser_testkit::gate::installed(p));
    missing
        .map_or(Ok(()), |p| bail!("{p} is not installed: run scripts/deps demo"))
        .context("a program is missing")
}
