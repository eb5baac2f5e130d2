//! A tiny server for the tests: a thread per connection and a function that answers requests.
//!
//! The function is called under one lock, so an answer that takes its time stalls every
//! connection, as a stopped process does. `None` closes the connection.

use super::super::resp::{Scanner, next_bulk};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

type Answer = dyn FnMut(&[&[u8]]) -> Option<Vec<u8>> + Send;

/// Starts a server and returns its address. Its threads end with their connections.
pub fn start(answer: impl FnMut(&[&[u8]]) -> Option<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    // Guards the function; the only lock here.
    let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(answer)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("a connection"), answer.clone());
            thread::spawn(move || serve(stream, &answer));
        }
    });
    address.to_string()
}

fn serve(mut stream: TcpStream, answer: &Mutex<Box<Answer>>) -> Option<()> {
    let (mut scanner, mut input, mut chunk) = (Scanner::new(), Vec::new(), [0; 4096]);
    loop {
        let mut output = Vec::new();
        while let Some(request) = scanner.scan(&input).expect("requests are well formed") {
            let words = words(&input[..request.len]);
            output.extend(answer.lock().expect("no test panics in here")(&words)?);
            input.drain(..request.len);
        }
        stream.write_all(&output).ok()?;
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        input.extend_from_slice(&chunk[..read]);
    }
}

fn words(mut request: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    while let Some((Some(word), rest)) = next_bulk(request) {
        words.push(word);
        request = rest;
    }
    words
}
