//! Well-behaved guests: handshakes, credit, shutdown, bulk.

use super::super::credit::BUF_ALLOC;
use super::super::device::MOST_CONNECTIONS;
use super::super::host::Refused;
use super::super::packet::{Operation, Shutdown};
use super::super::testing::Guest;
use super::{LONG, connect, listen, opened_by_guest, opened_by_host};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn the_host_opens_a_connection() {
    let mut guest = Guest::new();
    let connecting = connect(&guest, 1025);
    let request = guest.receive_op(Operation::REQUEST);
    assert_eq!((request.src_cid, request.dst_cid), (2, 3));
    assert_eq!((request.dst_port, request.buf_alloc), (1025, BUF_ALLOC));
    let host = request.src_port;
    guest.send_op(Operation::RESPONSE, 1025, host);
    let mut stream = connecting.join().unwrap().unwrap();

    stream.write_all(b"to the guest").unwrap();
    let (header, payload) = guest.receive();
    assert_eq!(
        (header.op, header.src_port, header.dst_port),
        (Operation::RW, host, 1025)
    );
    assert_eq!(payload, b"to the guest");

    guest.send_data(1025, host, b"to the host");
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the host");
}

#[test]
fn a_refusal_is_told() {
    let mut guest = Guest::new();
    let connecting = connect(&guest, 1);
    let request = guest.receive_op(Operation::REQUEST);
    guest.send_op(Operation::RST, 1, request.src_port);
    let error = connecting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(guest.device.connections.is_empty());
    guest.assert_silent();
}

#[test]
fn a_request_waits_for_the_driver() {
    let mut guest = Guest::without_buffers();
    let connecting = connect(&guest, 9);
    guest.wait();
    guest.recycle = true;
    guest.restart();
    let request = guest.receive_op(Operation::REQUEST);
    guest.send_op(Operation::RESPONSE, 9, request.src_port);
    connecting.join().unwrap().unwrap();
}

#[test]
fn the_guest_opens_a_connection() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 50_000, 1024);
    guest.send_data(50_000, 1024, b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    stream.write_all(b"welcome").unwrap();
    let (header, payload) = guest.receive();
    assert_eq!((header.op, header.dst_port), (Operation::RW, 50_000));
    assert_eq!(payload, b"welcome");
}

#[test]
fn nobody_listens() {
    let mut guest = Guest::new();
    guest.send_op(Operation::REQUEST, 50_000, 4711);
    let reset = guest.receive_op(Operation::RST);
    assert_eq!((reset.src_port, reset.dst_port), (4711, 50_000));
    assert!(guest.device.connections.is_empty());
}

#[test]
fn a_full_backlog_refuses() {
    let mut guest = Guest::new();
    let accepted = listen(&mut guest, 80, 1);
    guest.send_op(Operation::REQUEST, 1, 80);
    guest.receive_op(Operation::RESPONSE);
    guest.send_op(Operation::REQUEST, 2, 80);
    guest.receive_op(Operation::RST);
    drop(accepted.recv().unwrap());
    guest.wait();
    guest.receive_op(Operation::SHUTDOWN);
    guest.send_op(Operation::REQUEST, 2, 80);
    guest.receive_op(Operation::RESPONSE);
}

#[test]
fn a_port_closes_with_its_listener() {
    let mut guest = Guest::new();
    let listening = guest.door.listen(80, Box::new(|_| Err(Refused))).unwrap();
    drop(listening);
    guest.send_op(Operation::REQUEST, 1, 80);
    guest.receive_op(Operation::RST);
}

#[test]
fn credit_stops_the_host_and_lets_it_go_on() {
    let mut guest = Guest::new();
    let mut response = Guest::header(Operation::RESPONSE, 7, 0);
    response.buf_alloc = 1000;
    let (host, mut stream) = opened_by_host(&mut guest, 7, &response);
    stream.write_all(&[5; 2500]).unwrap();
    let mut received = 0;
    for expected in [1000, 1000, 500] {
        let (header, payload) = guest.receive();
        assert_eq!((header.op, payload.len()), (Operation::RW, expected));
        received += payload.len() as u32;
        if expected == 1000 {
            guest.assert_silent();
        }
        let mut update = Guest::header(Operation::CREDIT_UPDATE, 7, host);
        (update.buf_alloc, update.fwd_cnt) = (1000, received);
        guest.send(update, &[]);
    }
    guest.assert_silent();
}

#[test]
fn a_shrunken_buffer_gives_no_credit() {
    let mut guest = Guest::new();
    let mut response = Guest::header(Operation::RESPONSE, 7, 0);
    response.buf_alloc = 2000;
    let (host, mut stream) = opened_by_host(&mut guest, 7, &response);
    stream.write_all(&[1; 1500]).unwrap();
    assert_eq!(guest.receive().1.len(), 1500);
    let mut update = Guest::header(Operation::CREDIT_UPDATE, 7, host);
    (update.buf_alloc, update.fwd_cnt) = (100, 0);
    guest.send(update, &[]);
    stream.write_all(&[2; 500]).unwrap();
    guest.assert_silent();
    (update.buf_alloc, update.fwd_cnt) = (100, 1450);
    guest.send(update, &[]);
    assert_eq!(guest.receive().1, [2; 50]);
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_and_nothing_is_lost() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    let block: Vec<u8> = (0..16_384_u32).map(|i| (i * 7) as u8).collect();
    // What the socket holds counts as forwarded; then the device's own buffer fills.
    let mut sent = 0;
    let mut fwd_cnt = 0;
    while BUF_ALLOC - (sent - fwd_cnt) >= block.len() as u32 {
        guest.send_data(1, 2, &block);
        sent += block.len() as u32;
        while let Some((header, _)) = guest.inbox.pop_front() {
            assert_eq!(header.op, Operation::CREDIT_UPDATE);
            fwd_cnt = header.fwd_cnt;
        }
    }
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; sent as usize];
        stream.read_exact(&mut bytes).unwrap();
        (bytes, stream)
    });
    // Everything up to the last announcement, which comes for every quarter of the buffer.
    while sent - fwd_cnt >= BUF_ALLOC / 4 {
        fwd_cnt = guest.receive_op(Operation::CREDIT_UPDATE).fwd_cnt;
    }
    while guest
        .device
        .connections
        .values()
        .any(|connection| connection.is_write_blocked())
    {
        guest.wait();
    }
    let (bytes, _stream) = reader.join().unwrap();
    assert!(bytes.chunks(block.len()).all(|chunk| chunk == block));
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::new();
    let _stream = opened_by_guest(&mut guest, 1, 2);
    guest.send_op(Operation::CREDIT_REQUEST, 1, 2);
    assert_eq!(
        guest.receive_op(Operation::CREDIT_UPDATE).buf_alloc,
        BUF_ALLOC
    );
}

#[test]
fn the_guest_ends_its_direction() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    guest.send_data(1, 2, b"last words");
    guest.send_shutdown(
        1,
        2,
        Shutdown {
            send: true,
            receive: false,
        },
    );
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
    // The other direction is still open.
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.receive().1, b"answer");
    guest.send_shutdown(1, 2, Shutdown::BOTH);
    guest.receive_op(Operation::RST);
    assert!(guest.device.connections.is_empty());
    let error = stream.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_host_ends_its_direction() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(net::Shutdown::Write).unwrap();
    assert_eq!(guest.receive().1, b"last words");
    let shutdown = guest.receive_op(Operation::SHUTDOWN);
    assert_eq!(
        Shutdown::from_flags(shutdown.flags),
        Shutdown {
            send: true,
            receive: false
        }
    );
    guest.send_data(1, 2, b"answer");
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
    drop(stream);
    guest.wait();
    let shutdown = guest.receive_op(Operation::SHUTDOWN);
    assert_eq!(Shutdown::from_flags(shutdown.flags), Shutdown::BOTH);
    guest.send_op(Operation::RST, 1, 2);
    assert!(guest.device.connections.is_empty());
    guest.assert_silent();
}

#[test]
fn the_host_goes_away() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    stream.write_all(b"bye").unwrap();
    drop(stream);
    assert_eq!(guest.receive().1, b"bye");
    let shutdown = guest.receive_op(Operation::SHUTDOWN);
    assert_eq!(Shutdown::from_flags(shutdown.flags), Shutdown::BOTH);
    // What was on its way is swallowed, and counted.
    guest.send_data(1, 2, &[0; 1000]);
    guest.send_op(Operation::CREDIT_REQUEST, 1, 2);
    assert_eq!(guest.receive_op(Operation::CREDIT_UPDATE).fwd_cnt, 1000);
    guest.send_shutdown(1, 2, Shutdown::BOTH);
    guest.receive_op(Operation::RST);
    assert!(guest.device.connections.is_empty());
}

#[test]
fn the_host_stops_reading() {
    let mut guest = Guest::new();
    let stream = opened_by_guest(&mut guest, 1, 2);
    stream.shutdown(net::Shutdown::Read).unwrap();
    guest.send_data(1, 2, b"unwanted");
    let shutdown = guest.receive_op(Operation::SHUTDOWN);
    assert_eq!(
        Shutdown::from_flags(shutdown.flags),
        Shutdown {
            send: false,
            receive: true
        }
    );
}

#[test]
fn the_guest_stops_reading() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    guest.send_shutdown(
        1,
        2,
        Shutdown {
            send: false,
            receive: true,
        },
    );
    let error = stream.write_all(b"unwanted").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    guest.send_data(1, 2, b"still");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    drop(stream);
    guest.wait();
    let shutdown = guest.receive_op(Operation::SHUTDOWN);
    assert_eq!(Shutdown::from_flags(shutdown.flags), Shutdown::BOTH);
}

#[test]
fn what_came_before_a_reset_is_delivered() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    let block = [3; 60_000];
    for _ in 0..7 {
        guest.send_data(1, 2, &block);
    }
    guest.inbox.clear();
    guest.send_op(Operation::RST, 1, 2);
    // The name is taken until the last byte was read.
    guest.send_op(Operation::REQUEST, 1, 2);
    guest.receive_op(Operation::RST);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    });
    while !guest.device.connections.is_empty() {
        guest.wait();
    }
    assert_eq!(reader.join().unwrap().unwrap(), vec![3; 420_000]);
    guest.assert_silent();
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::without_buffers();
    guest.recycle = true;
    guest.restart();
    let mut first = opened_by_guest(&mut guest, 1, 2);
    let mut second = opened_by_guest(&mut guest, 3, 4);
    guest.recycle = false;
    first.write_all(&[1; 40_000]).unwrap();
    second.write_all(&[2; 40_000]).unwrap();
    guest.work();
    let turns: Vec<u32> = guest
        .inbox
        .iter()
        .map(|(header, _)| header.dst_port)
        .take(18)
        .collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
}

#[test]
fn connections_are_limited() {
    let mut guest = Guest::new();
    let accepted = listen(&mut guest, 80, 2000);
    for port in 0..MOST_CONNECTIONS as u32 {
        guest.send_op(Operation::REQUEST, port, 80);
        guest.receive_op(Operation::RESPONSE);
    }
    guest.send_op(Operation::REQUEST, 5000, 80);
    guest.receive_op(Operation::RST);
    let refused = connect(&guest, 1);
    guest.wait();
    assert_eq!(
        refused.join().unwrap().unwrap_err().kind(),
        io::ErrorKind::QuotaExceeded
    );
    // A connection that its host program has left makes room.
    drop(accepted.recv().unwrap());
    guest.wait();
    guest.receive_op(Operation::SHUTDOWN);
    guest.send_op(Operation::REQUEST, 5000, 80);
    guest.receive_op(Operation::RESPONSE);
    assert_eq!(guest.device.connections.len(), MOST_CONNECTIONS);
}

#[test]
fn a_restarted_driver_begins_anew() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    let waiting = connect(&guest, 5);
    guest.receive_op(Operation::REQUEST);
    guest.send_data(1, 2, b"half a mess");
    guest.restart();
    assert_eq!(
        waiting.join().unwrap().unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "half a mess");
    guest.assert_silent();
    let (_, mut stream) = opened_by_host(&mut guest, 1, &Guest::header(Operation::RESPONSE, 1, 0));
    stream.write_all(b"again").unwrap();
    assert_eq!(guest.receive().1, b"again");
}

#[test]
fn a_device_that_goes_answers_everybody() {
    let guest = Guest::new();
    let door = guest.door.clone();
    let waiting = connect(&guest, 5);
    // Whether the wish arrives before or after, the answer is the same.
    drop(guest);
    assert_eq!(
        waiting.join().unwrap().unwrap_err().kind(),
        io::ErrorKind::NotConnected
    );
    assert_eq!(
        door.connect(5, LONG).unwrap_err().kind(),
        io::ErrorKind::NotConnected
    );
}

#[test]
fn patience_ends() {
    let mut guest = Guest::new();
    let door = guest.door.clone();
    let error = door.connect(5, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    guest.work();
    assert!(guest.device.connections.is_empty());
    guest.assert_silent();
}

/// The guest's half of a well-behaved stack: sends as credit allows, and acknowledges.
fn exchange(guest: &mut Guest, mut stream: UnixStream, len: u32) -> (Vec<u8>, Vec<u8>) {
    let (port, host) = (1, 2);
    let echo = std::thread::spawn(move || {
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 100_000];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            stream.write_all(&buffer[..count]).unwrap();
        }
        stream.shutdown(net::Shutdown::Write).unwrap();
        digest.finalize().to_vec()
    });
    let block: Vec<u8> = (0..60_013_u32).map(|i| ((i * i) >> 3) as u8).collect();
    let mut digest = Sha256::new();
    let (mut sent, mut acknowledged, mut received, mut announced) = (0_u32, 0_u32, 0_u32, 0_u32);
    loop {
        let chunk = &block[..block.len().min((len - sent) as usize)];
        if BUF_ALLOC - (sent - acknowledged) >= chunk.len() as u32 && sent < len {
            let mut header = Guest::header(Operation::RW, port, host);
            (header.buf_alloc, header.fwd_cnt) = (100_000, received);
            guest.send(header, chunk);
            sent += chunk.len() as u32;
            if sent == len {
                guest.send_shutdown(
                    port,
                    host,
                    Shutdown {
                        send: true,
                        receive: false,
                    },
                );
            }
        } else if received - announced >= 50_000 {
            let mut update = Guest::header(Operation::CREDIT_UPDATE, port, host);
            (update.buf_alloc, update.fwd_cnt) = (100_000, received);
            guest.send(update, &[]);
            announced = received;
        } else if guest.inbox.is_empty() {
            guest.wait();
        }
        while let Some((header, payload)) = guest.inbox.pop_front() {
            acknowledged = header.fwd_cnt;
            digest.update(&payload);
            received += payload.len() as u32;
            match header.op {
                Operation::RW | Operation::CREDIT_UPDATE => {}
                Operation::SHUTDOWN => {
                    assert_eq!(received, len);
                    return (echo.join().unwrap(), digest.finalize().to_vec());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn sixty_four_mebibytes_go_there_and_back() {
    let mut guest = Guest::new();
    let stream = opened_by_guest(&mut guest, 1, 2);
    let (there, back) = exchange(&mut guest, stream, 64 << 20);
    assert_eq!(there, back);
}
