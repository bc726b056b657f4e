//! How a replica's command line and environment are made from their templates.

use std::{collections::BTreeMap, ffi::OsString, io, net::SocketAddr, path::PathBuf, process::Stdio};

use tokio::process::Command;

use super::port::Port;
use crate::launch;

/// Where the server is to listen; the others are for servers that insist on more ports than one.
const PLACEHOLDERS: [&str; 3] = ["{port}", "{port2}", "{port3}"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    #[error("the command is empty")]
    NoCommand,
    #[error(
        "neither the command nor its environment says `{{port}}`: the server would not know where to listen"
    )]
    NoPort,
}

/// Everything about a replica's process but its ports.
#[derive(Debug)]
pub(super) struct Recipe {
    program: String,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    directory: Option<PathBuf>,
    launcher: Option<Vec<OsString>>,
}

impl Recipe {
    pub(super) fn new(
        command: Vec<String>,
        env: BTreeMap<String, String>,
        directory: Option<PathBuf>,
        launcher: Option<Vec<OsString>>,
    ) -> Result<Self, RecipeError> {
        let [port, ..] = PLACEHOLDERS;
        let mut command = command.into_iter();
        let program = command.next().filter(|program| !program.is_empty()).ok_or(RecipeError::NoCommand)?;
        let arguments: Vec<_> = command.collect();
        if !arguments.iter().chain(env.values()).any(|text| text.contains(port)) {
            return Err(RecipeError::NoPort);
        }
        Ok(Self { program, arguments, env, directory, launcher: launcher.filter(|words| !words.is_empty()) })
    }

    /// The command for a replica at `ports`: in a process group of its own, so that a Ctrl-C in the terminal
    /// reaches only this process and a wrapping shell can be ended together with what it wraps.
    pub(super) fn command(&self, ports: &Ports) -> Command {
        let mut words =
            self.launcher.iter().flat_map(|launcher| launcher.iter().cloned().chain(launch::arguments()));
        let program = OsString::from(ports.fill(&self.program));
        let mut command = match words.next() {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(self.arguments.iter().map(|argument| ports.fill(argument)));
        command.envs(self.env.iter().map(|(name, value)| (name, ports.fill(value))));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }
}

/// The ports of one run of a replica.
#[derive(Debug)]
pub(super) struct Ports([Port; PLACEHOLDERS.len()]);

impl Ports {
    pub(super) fn lease() -> io::Result<Self> {
        Ok(Self([Port::lease()?, Port::lease()?, Port::lease()?]))
    }

    /// Where the model is served.
    pub(super) fn address(&self) -> SocketAddr {
        let [port, ..] = &self.0;
        port.address()
    }

    fn fill(&self, template: &str) -> String {
        PLACEHOLDERS.iter().zip(&self.0).fold(template.to_owned(), |text, (placeholder, port)| {
            if text.contains(placeholder) {
                text.replace(placeholder, &port.number().to_string())
            } else {
                text
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn command_line(command: &Command) -> Vec<String> {
        let command = command.as_std();
        [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_placeholder_is_filled_and_other_braces_are_left_alone() {
        let env = BTreeMap::from([("METRICS".to_owned(), "127.0.0.1:{port2}".to_owned())]);
        let command = words(&["serve", "--listen=[::]:{port}/{port}", "{\"json\": {}}", "{port3}"]);
        let recipe = Recipe::new(command, env, Some("/srv".into()), None).unwrap();
        let ports = Ports::lease().unwrap();
        let [a, b, c] = ports.0.each_ref().map(Port::number);
        let command = recipe.command(&ports);
        let expected = [
            "serve".to_owned(),
            format!("--listen=[::]:{a}/{a}"),
            "{\"json\": {}}".to_owned(),
            c.to_string(),
        ];
        assert_eq!(command_line(&command), expected);
        let env: Vec<_> = command.as_std().get_envs().collect();
        assert_eq!(env, [("METRICS".as_ref(), Some(format!("127.0.0.1:{b}").as_ref()))]);
        assert_eq!(command.as_std().get_current_dir(), Some("/srv".as_ref()));
    }

    #[test]
    fn a_launcher_is_told_its_parent_and_the_command() {
        let launcher = Some(vec!["tidegate".into(), "exec-replica".into()]);
        let recipe = Recipe::new(words(&["serve", "{port}"]), BTreeMap::new(), None, launcher).unwrap();
        let ports = Ports::lease().unwrap();
        let port = ports.address().port().to_string();
        let parent = std::process::id().to_string();
        let expected = ["tidegate", "exec-replica", "--parent-pid", &parent, "--", "serve", &port];
        assert_eq!(command_line(&recipe.command(&ports)), expected);
    }

    #[test]
    fn a_command_without_program_or_port_is_refused() {
        let new = |command: &[&str], env| Recipe::new(words(command), env, None, None).map(|_| ());
        assert_eq!(new(&[], BTreeMap::new()), Err(RecipeError::NoCommand));
        assert_eq!(new(&["", "{port}"], BTreeMap::new()), Err(RecipeError::NoCommand));
        assert_eq!(new(&["serve", "{port2}"], BTreeMap::new()), Err(RecipeError::NoPort));
        let env = BTreeMap::from([("PORT".to_owned(), "{port}".to_owned())]);
        assert_eq!(new(&["serve"], env), Ok(()));
    }
}
