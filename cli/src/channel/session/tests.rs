//! A kernel's end of the conversation, played by a thread.

use super::*;
use std::os::unix::net::UnixStream;
use std::thread;

use crate::channel::frame::MAX_PAYLOAD;

struct Result {
    outcome: Outcome,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn drain(mut stream: UnixStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Runs a session against `guest` with `input` as standard input.
fn converse(
    input: &[u8],
    timeout: Option<Duration>,
    guest: impl FnOnce(UnixStream) + Send + 'static,
) -> Result {
    let (near, far) = UnixStream::pair().unwrap();
    let guest = thread::spawn(move || guest(far));
    let (stdin, stdin_far) = UnixStream::pair().unwrap();
    let input = input.to_vec();
    let feeder = thread::spawn(move || drop((&stdin_far).write_all(&input)));
    let (stdout, stdout_far) = UnixStream::pair().unwrap();
    let (stderr, stderr_far) = UnixStream::pair().unwrap();
    let (stdout_reader, stderr_reader) = (drain(stdout_far), drain(stderr_far));

    let mut signals = Signals::new().unwrap();
    let mut progress = Progress::new();
    let session = Session::new(
        &near,
        streams(&stdin, &stdout, &stderr),
        &mut signals,
        &mut progress,
        LogLevel::Warnings,
        timeout.map(|t| Instant::now() + t),
    );
    let outcome = session.unwrap().run().unwrap();
    drop((near, stdin, stdout, stderr));
    guest.join().unwrap();
    feeder.join().unwrap();
    Result { outcome, stdout: stdout_reader.join().unwrap(), stderr: stderr_reader.join().unwrap() }
}

fn say(channel: &mut UnixStream, frames: &[GuestFrame]) {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    channel.write_all(&bytes).unwrap();
}

/// Reads one host frame.
fn hear(channel: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 8];
    channel.read_exact(&mut header).ok()?;
    let mut payload = vec![0; u32::from_le_bytes(header[4..].try_into().unwrap()) as usize];
    channel.read_exact(&mut payload).ok()?;
    Some((header[0], payload))
}

#[test]
fn output_bill_and_status_come_through() {
    let result = converse(b"", None, |mut channel| {
        say(
            &mut channel,
            &[
                GuestFrame::Log("booting".into()),
                GuestFrame::Ready,
                GuestFrame::Stdout(b"out\0\xff".to_vec()),
                GuestFrame::Stderr(b"err".to_vec()),
                GuestFrame::Bill(b"{\"a\":".to_vec()),
                GuestFrame::Bill(b"1}".to_vec()),
                GuestFrame::Exit(7),
            ],
        );
    });
    assert!(matches!(result.outcome.end, End::Exit(7)));
    assert_eq!(result.stdout, b"out\0\xff");
    assert_eq!(result.stderr, b"err");
    assert_eq!(result.outcome.bill, b"{\"a\":1}");
    assert_eq!(result.outcome.log, ["booting"]);
}

#[test]
fn input_never_exceeds_the_credit() {
    let input: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
    let expected = input.clone();
    let result = converse(&input, None, move |mut channel| {
        let mut heard = Vec::new();
        let mut granted = 0;
        loop {
            if granted == heard.len() {
                say(&mut channel, &[GuestFrame::StdinWant(777)]);
                granted += 777;
            }
            match hear(&mut channel).unwrap() {
                (16, bytes) => heard.extend(bytes),
                (17, _) => break,
                other => panic!("{other:?}"),
            }
            assert!(heard.len() <= granted);
        }
        assert_eq!(heard, expected);
        say(&mut channel, &[GuestFrame::Exit(0)]);
    });
    assert!(matches!(result.outcome.end, End::Exit(0)));
}

#[test]
fn a_guest_that_goes_without_a_word_has_died() {
    let result = converse(b"", None, |mut channel| {
        let lines: Vec<_> = (0..50).map(|n| GuestFrame::Log(format!("line {n}"))).collect();
        say(&mut channel, &lines);
    });
    assert!(matches!(result.outcome.end, End::Died));
    assert_eq!(result.outcome.log.len(), LOG_LINES_KEPT);
    assert_eq!(result.outcome.log.last().unwrap(), "line 49");
    assert_eq!(result.stderr, b"");
}

#[test]
fn warnings_are_shown() {
    let result = converse(b"", None, |mut channel| {
        say(
            &mut channel,
            &[
                GuestFrame::Log("<6>quiet\nand calm".into()),
                GuestFrame::Log("<3>loud".into()),
                GuestFrame::Log("Out of memory: killed process 3 (hog)".into()),
                GuestFrame::Exit(137),
            ],
        );
    });
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert_eq!(stderr, "anonmem: kernel: loud\nanonmem: kernel: Out of memory: killed process 3 (hog)\n");
    assert_eq!(result.outcome.log[..2], ["quiet", "and calm"]);
}

#[test]
fn garbage_breaks_the_conversation_and_silence_times_out() {
    let result = converse(b"", None, |mut channel| {
        channel.write_all(b"BIOS says hello").unwrap();
        let _ = hear(&mut channel);
    });
    assert!(matches!(result.outcome.end, End::Broken(FrameError::BadHeader(_))), "{:?}", result.outcome.end);

    let result = converse(b"", Some(Duration::from_millis(50)), |mut channel| {
        assert_eq!(hear(&mut channel), None);
    });
    assert!(matches!(result.outcome.end, End::Timeout));
}

#[test]
fn a_reader_that_left_means_sigpipe_for_the_program() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let guest = thread::spawn(move || {
        say(&mut far, &[GuestFrame::Stdout(vec![b'y'; MAX_PAYLOAD])]);
        let heard = hear(&mut far);
        say(&mut far, &[GuestFrame::Stdout(b"more".to_vec()), GuestFrame::Exit(141)]);
        heard
    });
    let (stdin, _stdin_far) = UnixStream::pair().unwrap();
    let (stdout, stdout_far) = UnixStream::pair().unwrap();
    drop(stdout_far);
    let mut signals = Signals::new().unwrap();
    let mut progress = Progress::new();
    let all = streams(&stdin, &stdout, &stdout);
    let session = Session::new(&near, all, &mut signals, &mut progress, LogLevel::Warnings, None).unwrap();
    assert!(matches!(session.run().unwrap().end, End::Exit(141)));
    assert_eq!(guest.join().unwrap(), Some((18, 13_u32.to_le_bytes().to_vec())));
}
