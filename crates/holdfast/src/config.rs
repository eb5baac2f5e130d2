//! `holdfast config`, and how every subcommand comes to its configuration.

use std::path::PathBuf;

use clap::Args;
use holdfast_server::Config;

/// Where settings come from; later sources win: defaults, file, environment, flags.
#[derive(Args, Clone, Debug, Default)]
pub struct Sources {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of log and engine [default: data].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address of the Redis protocol; port 0 picks a free one [default: 127.0.0.1:6379].
    #[arg(long, value_name = "ADDR")]
    redis: Option<String>,
    /// Address of metrics and health; port 0 picks a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Any other setting, as in `--set memory=4GiB`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Sources {
    /// The effective configuration.
    pub fn load(&self) -> Result<Config, String> {
        let mut config = Config::default();
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            config.merge_toml(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        config.merge_environment(|name| std::env::var(name).ok())?;
        for (key, value) in
            [("data", &self.data), ("redis.addr", &self.redis), ("http.addr", &self.http)]
        {
            if let Some(value) = value {
                config.set(key, value)?;
            }
        }
        for setting in &self.settings {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| format!("--set {setting:?}: write --set key=value"))?;
            config.set(key.trim(), value.trim())?;
        }
        Ok(config)
    }
}

/// Arguments of `holdfast config`.
#[derive(Args)]
#[command(after_help = "Examples:\n  holdfast config > holdfast.toml\n  \
                        HOLDFAST_MEMORY=4GiB holdfast config --set threads.data=4\n  \
                        holdfast config --reference > docs/configuration.md")]
pub struct ConfigArgs {
    #[command(flatten)]
    sources: Sources,
    /// Print the reference page of all settings instead.
    #[arg(long)]
    reference: bool,
}

/// Prints the configuration.
pub fn run(args: &ConfigArgs) -> Result<(), String> {
    if args.reference {
        print!("{}", Config::reference());
    } else {
        print!("{}", args.sources.load()?.to_toml());
    }
    Ok(())
}
