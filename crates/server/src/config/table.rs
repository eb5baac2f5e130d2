//! The table of settings: each is declared here once.

use std::path::PathBuf;

use holdfast_backup::Location;

use super::{
    ClientCertificates, MEMORY_MIN, Setting, Sync, TakeOver, parse, parse_addr, parse_announced,
    show_addr,
};

/// All settings, in the order of the reference page.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        about: "Folder of log and engine; made at the first start.",
        secret: false,
        set: |c, v| {
            c.data = PathBuf::from(v);
            Ok(())
        },
        get: |c| c.data.display().to_string(),
    },
    Setting {
        key: "node.name",
        about: "Name of this node in take-over records and for the other nodes of its cluster, each of which \
                needs one of its own. Empty: the name of its host and its port.",
        secret: false,
        set: |c, v| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if v.len() > 64 || !v.chars().all(fits) {
                return Err(format!("{v:?} is not of up to 64 letters, digits, - and _"));
            }
            c.node_name = v.into();
            Ok(())
        },
        get: |c| c.node_name.clone(),
    },
    Setting {
        key: "memory",
        about: "Memory of the process as a whole: caches, memtables, staged writes, connections.",
        secret: false,
        set: |c, v| {
            c.memory = v.parse()?;
            if c.memory < MEMORY_MIN {
                return Err(format!("{v:?} is too little: at least {MEMORY_MIN}"));
            }
            Ok(())
        },
        get: |c| c.memory.to_string(),
    },
    Setting {
        key: "redis.addr",
        about: "Address of the Redis protocol without TLS; port 0 picks a free one, `off`: TLS only.",
        secret: false,
        set: |c, v| {
            c.redis_addr = parse_addr(v, "127.0.0.1:6379")?;
            Ok(())
        },
        get: |c| show_addr(c.redis_addr),
    },
    Setting {
        key: "redis.tls_addr",
        about: "Address of the Redis protocol over TLS; needs `tls.certificate_file` and `tls.key_file`.",
        secret: false,
        set: |c, v| {
            c.redis_tls_addr = parse_addr(v, "0.0.0.0:6380")?;
            Ok(())
        },
        get: |c| show_addr(c.redis_tls_addr),
    },
    Setting {
        key: "redis.announce",
        about: "`HOST:PORT` that clients of a cluster are told to reach this node at. Empty: where it listens.",
        secret: false,
        set: |c, v| {
            c.redis_announce = parse_announced(v)?;
            Ok(())
        },
        get: |c| c.redis_announce.clone(),
    },
    Setting {
        key: "redis.tls_announce",
        about: "The same for clients that speak TLS.",
        secret: false,
        set: |c, v| {
            c.redis_tls_announce = parse_announced(v)?;
            Ok(())
        },
        get: |c| c.redis_tls_announce.clone(),
    },
    Setting {
        key: "redis.forward",
        about: "`true`: while this node stands by, it passes connections without TLS on to the owner, for \
                clients that know nothing of clusters. `false`: it sends clients there (`MOVED`).",
        secret: false,
        set: |c, v| {
            c.redis_forward = parse(v, "`true` nor `false`")?;
            Ok(())
        },
        get: |c| c.redis_forward.to_string(),
    },
    Setting {
        key: "redis.clients_max",
        about: "Most client connections; a further one is told so and closed.",
        secret: false,
        set: |c, v| {
            c.redis_clients_max = parse(v, "a number")?;
            Ok(())
        },
        get: |c| c.redis_clients_max.to_string(),
    },
    Setting {
        key: "redis.password",
        about: "Password of the user `default`; empty: none is asked for.",
        secret: true,
        set: |c, v| {
            c.redis_password = v.into();
            Ok(())
        },
        get: |c| c.redis_password.clone(),
    },
    Setting {
        key: "redis.output_bytes_max",
        about: "Bytes of replies that one connection may owe before it is cut off.",
        secret: false,
        set: |c, v| {
            c.redis_output_bytes_max = v.parse()?;
            Ok(())
        },
        get: |c| c.redis_output_bytes_max.to_string(),
    },
    Setting {
        key: "redis.replica_seconds_max",
        about: "While this node stands by it answers READONLY reads if it has heard of the owner within so \
                many seconds; older ones it sends to the owner.",
        secret: false,
        set: |c, v| {
            c.redis_replica_seconds_max = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.redis_replica_seconds_max.to_string(),
    },
    Setting {
        key: "redis.login_seconds_max",
        about: "How long a connection may take to log in where a password is asked for; then it is \
                told so and closed. 0: no bound.",
        secret: false,
        set: |c, v| {
            c.redis_login_seconds_max = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.redis_login_seconds_max.to_string(),
    },
    Setting {
        key: "http.addr",
        about: "Address of metrics and health without TLS; port 0 picks a free one, `off`: none.",
        secret: false,
        set: |c, v| {
            c.http_addr = parse_addr(v, "127.0.0.1:8080")?;
            Ok(())
        },
        get: |c| show_addr(c.http_addr),
    },
    Setting {
        key: "http.tls_addr",
        about: "Address of metrics and health over TLS; needs `tls.certificate_file` and \
                `tls.key_file`.",
        secret: false,
        set: |c, v| {
            c.http_tls_addr = parse_addr(v, "0.0.0.0:8443")?;
            Ok(())
        },
        get: |c| show_addr(c.http_tls_addr),
    },
    Setting {
        key: "http.token",
        about: "What a scrape of `/metrics` has to send as `Authorization: Bearer …`; empty: nothing. \
                `/livez` and `/readyz` stay open.",
        secret: true,
        set: |c, v| {
            c.http_token = v.into();
            Ok(())
        },
        get: |c| c.http_token.clone(),
    },
    Setting {
        key: "tls.certificate_file",
        about: "The node's certificate and what links it to its authority, as PEM. Read again when it \
                changes, and on SIGHUP.",
        secret: false,
        set: |c, v| {
            c.tls_certificate_file = v.into();
            Ok(())
        },
        get: |c| c.tls_certificate_file.display().to_string(),
    },
    Setting {
        key: "tls.key_file",
        about: "The certificate's private key, as PEM.",
        secret: false,
        set: |c, v| {
            c.tls_key_file = v.into();
            Ok(())
        },
        get: |c| c.tls_key_file.display().to_string(),
    },
    Setting {
        key: "tls.client_ca_file",
        about: "Authorities whose client certificates are accepted, as PEM.",
        secret: false,
        set: |c, v| {
            c.tls_client_ca_file = v.into();
            Ok(())
        },
        get: |c| c.tls_client_ca_file.display().to_string(),
    },
    Setting {
        key: "tls.client_certificates",
        about: "`none`: clients are asked for no certificate. `optional`: one that is shown has to be \
                valid. `required`: nobody comes in without one.",
        secret: false,
        set: |c, v| {
            c.tls_client_certificates = match v {
                "none" => ClientCertificates::None,
                "optional" => ClientCertificates::Optional,
                "required" => ClientCertificates::Required,
                other => {
                    let text = "neither `none` nor `optional` nor `required`";
                    return Err(format!("{other:?} is {text}"));
                }
            };
            Ok(())
        },
        get: |c| {
            match c.tls_client_certificates {
                ClientCertificates::None => "none",
                ClientCertificates::Optional => "optional",
                ClientCertificates::Required => "required",
            }
            .into()
        },
    },
    Setting {
        key: "tls.handshake_seconds_max",
        about: "How long a TLS handshake may take.",
        secret: false,
        set: |c, v| {
            c.tls_handshake_seconds_max = parse(v, "a number of seconds")?;
            if c.tls_handshake_seconds_max == 0 {
                return Err("a handshake takes some time: at least 1".into());
            }
            Ok(())
        },
        get: |c| c.tls_handshake_seconds_max.to_string(),
    },
    Setting {
        key: "threads.data",
        about: "Data threads, each with its own connections; 0: one for each core.",
        secret: false,
        set: |c, v| {
            c.threads_data = parse(v, "a number")?;
            Ok(())
        },
        get: |c| c.threads_data.to_string(),
    },
    Setting {
        key: "threads.fetch",
        about: "Threads that read from the disk for data threads: so many disk reads at a time.",
        secret: false,
        set: |c, v| {
            c.threads_fetch = parse::<usize>(v, "a number")?.max(1);
            Ok(())
        },
        get: |c| c.threads_fetch.to_string(),
    },
    Setting {
        key: "log.sync",
        about: "`always`: the log is synced before every acknowledgement. `never`: only to measure \
                what durability costs; a crash loses acknowledged writes.",
        secret: false,
        set: |c, v| {
            c.log_sync = match v {
                "always" => Sync::Always,
                "never" => Sync::Never,
                other => return Err(format!("{other:?} is neither `always` nor `never`")),
            };
            Ok(())
        },
        get: |c| if c.log_sync == Sync::Always { "always" } else { "never" }.into(),
    },
    Setting {
        key: "log.servers",
        about: "Addresses of log servers (`nats://HOST:PORT`), separated by commas: the log is \
                replicated by them. Empty: it is in the data folder.",
        secret: false,
        set: |c, v| {
            c.log_servers = words(v);
            match c.log_servers.iter().any(|server| server.contains('@')) {
                true => Err("credentials do not belong here: see log.nkey_seed_file".into()),
                false => Ok(()),
            }
        },
        get: |c| c.log_servers.join(","),
    },
    Setting {
        key: "log.monitors",
        about: "Monitoring addresses of all log servers (`http://HOST:PORT`), separated by commas: they tell whether \
                a server syncs before it acknowledges. A node does not start on one that does not. Empty: nobody \
                is asked.",
        secret: false,
        set: |c, v| {
            c.log_monitors = words(v);
            let is_plain =
                |monitor: &String| monitor.starts_with("http://") && !monitor.contains('@');
            match c.log_monitors.iter().all(is_plain) {
                true => Ok(()),
                false => Err("a monitor's address is http://HOST:PORT, without credentials".into()),
            }
        },
        get: |c| c.log_monitors.join(","),
    },
    Setting {
        key: "log.name",
        about: "Name of the replicated log: nodes with the same one serve the same data, one at a time.",
        secret: false,
        set: |c, v| {
            c.log_name = v.into();
            Ok(())
        },
        get: |c| c.log_name.clone(),
    },
    Setting {
        key: "log.replicas",
        about: "Copies that the log servers keep of the replicated log: 1, 3 or 5.",
        secret: false,
        set: |c, v| {
            c.log_replicas = parse(v, "a number")?;
            Ok(())
        },
        get: |c| c.log_replicas.to_string(),
    },
    Setting {
        key: "log.keep_seconds",
        about: "With a replicated log: how long the log is kept for a node that has been silent. One that comes \
                back later begins anew with a backup.",
        secret: false,
        set: |c, v| {
            c.log_keep_seconds = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.log_keep_seconds.to_string(),
    },
    Setting {
        key: "log.digest_bytes_per_second",
        about: "With a replicated log: bytes per second that this node reads of its own rows to compare them \
                with the other nodes'. 0: it does not compare.",
        secret: false,
        set: |c, v| {
            c.log_digest_bytes_per_second = v.parse()?;
            Ok(())
        },
        get: |c| c.log_digest_bytes_per_second.to_string(),
    },
    Setting {
        key: "log.take_over",
        about: "With a replicated log, when this node takes the data over from another one. \
                `when-silent`: it stands by, follows the log, and takes over once the other one has given \
                the data up or no sign of life for 2.1 seconds. `at-start`: at once; the other one ends.",
        secret: false,
        set: |c, v| {
            c.log_take_over = match v {
                "when-silent" => TakeOver::WhenSilent,
                "at-start" => TakeOver::AtStart,
                other => return Err(format!("{other:?} is neither `when-silent` nor `at-start`")),
            };
            Ok(())
        },
        get: |c| match c.log_take_over {
            TakeOver::WhenSilent => "when-silent".into(),
            TakeOver::AtStart => "at-start".into(),
        },
    },
    Setting {
        key: "log.nkey_seed_file",
        about: "File with the seed of the nkey that this node logs in to the log servers with.",
        secret: false,
        set: |c, v| {
            c.log_nkey_seed_file = v.into();
            Ok(())
        },
        get: |c| c.log_nkey_seed_file.display().to_string(),
    },
    Setting {
        key: "log.ca_file",
        about: "The authorities that log servers are certified by, as PEM; the log is then spoken to \
                over TLS alone.",
        secret: false,
        set: |c, v| {
            c.log_ca_file = v.into();
            Ok(())
        },
        get: |c| c.log_ca_file.display().to_string(),
    },
    Setting {
        key: "log.certificate_file",
        about: "This node's own certificate for log servers that ask for one, as PEM; with log.ca_file.",
        secret: false,
        set: |c, v| {
            c.log_certificate_file = v.into();
            Ok(())
        },
        get: |c| c.log_certificate_file.display().to_string(),
    },
    Setting {
        key: "log.key_file",
        about: "The key of that certificate, as PEM.",
        secret: false,
        set: |c, v| {
            c.log_key_file = v.into();
            Ok(())
        },
        get: |c| c.log_key_file.display().to_string(),
    },
    Setting {
        key: "log.segment_bytes",
        about: "Size of a log segment; one or two more are kept ready.",
        secret: false,
        set: |c, v| {
            c.log_segment_bytes = v.parse()?;
            Ok(())
        },
        get: |c| c.log_segment_bytes.to_string(),
    },
    Setting {
        key: "engine.replay_bytes_max",
        about: "Log bytes since the engine's last flush at which a flush is forced: bounds replay.",
        secret: false,
        set: |c, v| {
            c.engine_replay_bytes_max = v.parse()?;
            Ok(())
        },
        get: |c| c.engine_replay_bytes_max.to_string(),
    },
    Setting {
        key: "engine.background_bytes_per_second",
        about: "Bytes per second that flushes and compactions may write; 0: no limit.",
        secret: false,
        set: |c, v| {
            c.engine_background_bytes_per_second = v.parse()?;
            Ok(())
        },
        get: |c| c.engine_background_bytes_per_second.to_string(),
    },
    Setting {
        key: "backup.bytes_per_second",
        about: "Bytes per second that a backup reads and sends; 0: no limit.",
        secret: false,
        set: |c, v| {
            c.backup_bytes_per_second = v.parse()?;
            Ok(())
        },
        get: |c| c.backup_bytes_per_second.to_string(),
    },
    Setting {
        key: "backup.url",
        about: "Where this node takes backups by itself, `file:///folder` or `s3://bucket/prefix`. With a \
                replicated log new nodes begin with the newest one, and the log is trimmed behind it: the \
                same on all nodes. Empty: nowhere, and such a log is never trimmed.",
        secret: false,
        set: |c, v| {
            if !v.is_empty() {
                let parsed = holdfast_backup::Location::parse(v);
                parsed.map_err(|error| error.text().to_owned())?;
            }
            c.backup_url = v.to_owned();
            Ok(())
        },
        get: |c| c.backup_url.clone(),
    },
    Setting {
        key: "backup.every_seconds",
        about: "Seconds between two backups that are taken by themselves.",
        secret: false,
        set: |c, v| {
            c.backup_every_seconds = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.backup_every_seconds.to_string(),
    },
    Setting {
        key: "backup.every_log_bytes",
        about: "One is taken sooner when so many bytes have been written to the log since the last.",
        secret: false,
        set: |c, v| {
            c.backup_every_log_bytes = v.parse()?;
            Ok(())
        },
        get: |c| c.backup_every_log_bytes.to_string(),
    },
    Setting {
        key: "backup.keep",
        about: "How many backups are kept at backup.url; older ones are removed after a new one was taken. 0: \
                all.",
        secret: false,
        set: |c, v| {
            c.backup_keep = parse(v, "a number")?;
            Ok(())
        },
        get: |c| c.backup_keep.to_string(),
    },
    Setting {
        key: "archive.url",
        about: "Where the log is archived, `file:///folder` or `s3://bucket/prefix`; best the URL \
                of the backups. Empty: nowhere.",
        secret: false,
        set: |c, v| {
            if !v.is_empty() {
                Location::parse(v).map_err(|error| error.to_string())?;
            }
            c.archive_url = v.into();
            Ok(())
        },
        get: |c| c.archive_url.clone(),
    },
    Setting {
        key: "archive.seconds_max",
        about: "Seconds after which durable records are archived at the latest; sooner if a MiB \
                has come together.",
        secret: false,
        set: |c, v| {
            c.archive_seconds_max = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.archive_seconds_max.to_string(),
    },
    Setting {
        key: "archive.lag_bytes_max",
        about: "Bytes of log that are kept for an archive that lags; beyond them the log is \
                trimmed and the archive gets a gap.",
        secret: false,
        set: |c, v| {
            c.archive_lag_bytes_max = v.parse()?;
            Ok(())
        },
        get: |c| c.archive_lag_bytes_max.to_string(),
    },
    Setting {
        key: "shutdown.seconds_max",
        about: "How long a stop may take to drain and flush.",
        secret: false,
        set: |c, v| {
            c.shutdown_seconds_max = parse(v, "a number of seconds")?;
            Ok(())
        },
        get: |c| c.shutdown_seconds_max.to_string(),
    },
];

/// What stands between commas.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
