//! What this crate's tests run: a server that does as it is told, the launcher that the product's binary has as a
//! verb, and a parent of two replicas for the test to kill.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what the tests read")]

use std::{
    error::Error,
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
};

use autoscaler::fleet::{Fleet, Phase};
use fleet::{
    ProcessFleet, launch,
    probe::{Probe, ProbeError},
    process::Config,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(127)
        }
    }
}

fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    match *words.as_slice() {
        ["serve", port] => serve(port.parse()?),
        ["exec-replica", "--parent-pid", parent, "--", ..] => {
            let command = arguments.get(4..).unwrap_or_default();
            match launch::exec(parent.parse()?, command)? {}
        }
        ["parent"] => parent(),
        _ => Err("usage: serve PORT | exec-replica --parent-pid PID -- COMMAND… | parent".into()),
    }
}

/// Answers one line per connection.
fn serve(port: u16) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut ready = true;
    loop {
        let (stream, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let answer = match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ready?", _) => ready.to_string(),
            ("be", state) => {
                ready = state == "ready";
                String::new()
            }
            ("pid", _) => std::process::id().to_string(),
            ("env", name) => std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned(),
            ("die", words) => {
                eprintln!("{words}");
                std::process::exit(3)
            }
            _ => "what?".to_owned(),
        };
        // Whoever asked may be gone.
        drop(writeln!(&stream, "{answer}"));
    }
}

/// Runs two replicas, prints where, and waits to be killed.
#[tokio::main]
async fn parent() -> Result<(), Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let command = [this.to_str().ok_or("the path of this program is not text")?, "serve", "{port}"];
    let mut config = Config::new("killed".into(), command.map(str::to_owned).into());
    config.launcher = Some(vec![this.clone().into(), "exec-replica".into()]);
    let probe = Probe::new(tower::service_fn(async |address: SocketAddr| {
        TcpStream::connect(address)
            .map(drop)
            .map_err(|error| ProbeError::Unreachable(error.to_string().into()))
    }));
    let fleet = ProcessFleet::start(config, probe)?;
    fleet.scale(2, &[]).await?;
    let mut replicas = fleet.replicas();
    let ready =
        replicas.wait_for(|all| all.iter().all(|replica| replica.phase == Phase::Ready)).await?.clone();
    for address in ready.iter().filter_map(|replica| replica.address) {
        println!("{address}");
    }
    println!();
    std::future::pending().await
}
