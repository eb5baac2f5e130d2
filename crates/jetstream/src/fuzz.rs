//! Random and damaged bytes as messages: no panic, what decodes is written back the same, and a tail
//! that is fed with them goes on or says where the damage is.
//!
//! Run as an ordinary test this takes the corpus beside this file and some random inputs (a failure
//! prints its seed); under `cargo bolero` the same target is fuzzed by coverage.

use holdfast_base::{LogId, ShardId};

use crate::{
    message::{HEADER_BYTES, Message},
    tail::Tail,
};

fn read(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
    for first_sequence in [1, 9] {
        let mut tail = Tail::new(LogId(1), ShardId(0), first_sequence);
        let taken = tail.take(first_sequence, bytes);
        let moved = tail.last_sequence() == first_sequence;
        assert_eq!(moved, taken.is_ok(), "damage is never passed over");
    }
}

#[test]
fn any_bytes_are_a_message_or_refused() {
    bolero::check!(name = "message").for_each(|input: &[u8]| {
        read(input);
        // Past the checksum, too, and in the life of the log that the tail reads.
        if let Some((head, payload)) = input.split_at_checked(HEADER_BYTES) {
            let mut head = head.get(..HEADER_BYTES - 4).unwrap_or_default().to_vec();
            head[0] = 1;
            head[2..4].copy_from_slice(&[0, 0]);
            let life = Tail::new(LogId(1), ShardId(0), 1).point().incarnation;
            head[12..20].copy_from_slice(&life.0.to_le_bytes());
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), payload);
            read(&[head.as_slice(), &checksum.to_le_bytes(), payload].concat());
        }
    });
}
