//! One process of the cluster, started again when it ends.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long what has ended stays away.
pub const RESTART_AFTER: Duration = Duration::from_secs(3);
/// How long a process may take to end in order.
const PATIENCE: Duration = Duration::from_secs(40);

/// What to start.
pub struct Recipe {
    /// Short, for the reader.
    pub name: String,
    /// Where it is reached.
    pub about: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// See the module's head.
pub struct Process {
    recipe: Recipe,
    child: Child,
    ended: Option<Instant>,
}

impl Recipe {
    fn spawn(&self) -> Result<Child, String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.program.display());
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| format!("{}: {error}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(told)?)
            .stderr(log)
            // Ctrl-C is for this program alone, which ends the others in order.
            .process_group(0);
        command.spawn().map_err(told)
    }
}

impl Process {
    pub fn start(recipe: Recipe) -> Result<Process, String> {
        let child = recipe.spawn()?;
        Ok(Process { recipe, child, ended: None })
    }

    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    pub fn about(&self) -> &str {
        &self.recipe.about
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended already: at the start that is not what anybody did to it.
    pub fn must_run(&self) -> Result<(), String> {
        let Some(pid) = Pid::from_raw(self.pid() as i32) else { return Ok(()) };
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let is_gone = state.is_ok_and(|state| {
            state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        });
        if !is_gone {
            return Ok(());
        }
        Err(format!("{} has ended: see {}", self.name(), self.recipe.log.display()))
    }

    /// Notices its end, and starts it again after a while.
    pub fn look(&mut self) -> Result<(), String> {
        match self.ended {
            Some(at) if at.elapsed() >= RESTART_AFTER => {
                self.child = self.recipe.spawn()?;
                self.ended = None;
                println!("{} runs again, pid {}", self.name(), self.pid());
            }
            None => {
                if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                    self.ended = Some(Instant::now());
                    println!("{} has ended ({status})", self.name());
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// SIGTERM, and SIGCONT in case that somebody stopped it.
    pub fn ask_to_end(&mut self) {
        if self.ended.is_none()
            && let Some(pid) = Pid::from_raw(self.pid() as i32)
        {
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Waits for its end, and kills it if that takes too long.
    pub fn end(&mut self) {
        let began = Instant::now();
        while self.ended.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                eprintln!("{} does not end: killed", self.name());
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
