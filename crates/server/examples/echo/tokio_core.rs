//! Tokio the thrifty way: a runtime of one thread for each core, a task for each connection.

use std::{io, net::TcpListener};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
};

use crate::answer::{Conversation, READ_BYTES};

/// Serves for ever.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            // A connection that breaks ends alone.
            tokio::spawn(async move { converse(socket).await.ok() });
        }
    })
}

async fn converse(mut socket: TcpStream) -> io::Result<()> {
    let mut conversation = Conversation::default();
    let mut input = vec![0; READ_BYTES];
    let mut output = Vec::new();
    loop {
        let len = socket.read(&mut input).await?;
        if len == 0 {
            return Ok(());
        }
        conversation.take(input.get(..len).unwrap_or_default(), &mut output)?;
        socket.write_all(&output).await?;
        output.clear();
    }
}
