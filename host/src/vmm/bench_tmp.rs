use super::*;
use std::io::{Read, Write};
use std::time::Instant;
fn config() -> MachineConfig {
    MachineConfig {
        kernel: "/tmp/ringfence-image/Image".into(),
        initramfs: "/tmp/vsinit/initramfs".into(),
        rootfs: "/tmp/vsinit/rootfs".into(),
        memory: 512 << 20,
        cpus: std::env::var("CPUS")
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(1),
        console_log: None,
        boot_timeout: Duration::from_secs(20),
        ready_port: 1024,
        kernel_args: std::env::var("KARGS")
            .ok()
            .map(|v| v.split(' ').map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}
const T: Duration = Duration::from_secs(10);
fn cmd(m: &dyn Machine, c: u8, n: u64) -> UnixStream {
    let mut s = m.connect(2000, T).unwrap();
    let mut b = vec![c];
    b.extend(n.to_le_bytes());
    s.write_all(&b).unwrap();
    s
}
#[test]
fn bench() {
    let t = Instant::now();
    let b = match boot_qemu(config()) {
        Ok(b) => b,
        Err(e) => panic!("{e}: {:?}", std::error::Error::source(&e)),
    };
    eprintln!("boot {:?}", t.elapsed());
    let m = &*b.machine;
    // wait for listen: refused until then
    let mut tries = 0;
    while let Err(e) = m.connect(2000, T) {
        tries += 1;
        assert!(matches!(e, MachineError::Refused { .. }), "{e}");
    }
    eprintln!(
        "tries {tries}; refused: {:?}",
        m.connect(77, T).err().map(|e| e.to_string())
    );
    let n = 256u64 << 20;
    for c in [b'Z', b'S'] {
        let t = Instant::now();
        let mut s = cmd(m, c, n);
        let mut buf = vec![0; 256 << 10];
        let mut total = 0u64;
        let mut carry: Vec<u8> = vec![];
        let mut k = 0u64;
        loop {
            let r = s.read(&mut buf).unwrap();
            if r == 0 {
                break;
            }
            total += r as u64;
            if c == b'S' {
                carry.extend_from_slice(&buf[..r]);
                let w = carry.len() / 8 * 8;
                for ch in carry[..w].chunks_exact(8) {
                    assert_eq!(ch, k.to_le_bytes());
                    k += 1;
                }
                carry.drain(..w);
            }
        }
        let e = t.elapsed();
        eprintln!(
            "guest->host {} {:?} {:.0} MiB/s",
            c as char,
            e,
            total as f64 / 1048576.0 / e.as_secs_f64()
        );
        assert_eq!(total, n);
    }
    cpu("g->h");
    let t = Instant::now();
    let mut s = cmd(m, b'R', 0);
    let z = vec![0; 256 << 10];
    for _ in 0..(n / (256 << 10)) {
        s.write_all(&z).unwrap();
    }
    s.shutdown(std::net::Shutdown::Write).unwrap();
    let mut r = [0; 9];
    s.read_exact(&mut r).unwrap();
    assert_eq!(r[..8], n.to_le_bytes());
    let e = t.elapsed();
    eprintln!(
        "host->guest {:?} {:.0} MiB/s",
        e,
        n as f64 / 1048576.0 / e.as_secs_f64()
    );
    let mut s = cmd(m, b'R', 1);
    let mut w = s.try_clone().unwrap();
    let j = std::thread::spawn(move || {
        let mut v = Vec::new();
        for k in 0..(8u64 << 20) {
            v.extend(k.to_le_bytes());
            if v.len() >= 100_000 {
                w.write_all(&v).unwrap();
                v.clear();
            }
        }
        w.write_all(&v).unwrap();
        w.shutdown(std::net::Shutdown::Write).unwrap();
    });
    j.join().unwrap();
    let mut r = [0; 9];
    s.read_exact(&mut r).unwrap();
    assert_eq!(r[..8], (64u64 << 20).to_le_bytes());
    assert_eq!(r[8], 1);
    let mut s = cmd(m, b'E', 0);
    let mut b1 = [7u8; 64];
    let t = Instant::now();
    for _ in 0..1000 {
        s.write_all(&b1).unwrap();
        s.read_exact(&mut b1).unwrap();
    }
    eprintln!("echo round trip {:?}", t.elapsed() / 1000);
    let t = Instant::now();
    for _ in 0..500 {
        let mut s = cmd(m, b'E', 0);
        s.write_all(b"x").unwrap();
        let mut b = [0];
        s.read_exact(&mut b).unwrap();
    }
    eprintln!("connect {:?}", t.elapsed() / 500);
    drop(s);
    let mut s = cmd(m, b'C', 0);
    let mut v = vec![];
    let _ = s.read_to_end(&mut v);
    eprintln!("exit: {}", m.exit().unwrap());
    eprintln!(
        "connect after: {:?}",
        m.connect(2000, T).err().map(|e| e.to_string())
    );
    drop(b);
    eprintln!(
        "fds {}",
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    );
}
#[test]
fn boots() {
    let mut v = vec![];
    for _ in 0..15 {
        let t = Instant::now();
        let b = boot_qemu(config()).unwrap();
        v.push(t.elapsed());
        let t2 = Instant::now();
        drop(b);
        eprint!("{:?} ", t2.elapsed());
    }
    v.sort();
    eprintln!("boot median {:?} min {:?}", v[7], v[0]);
    eprintln!(
        "fds {} threads {}",
        std::fs::read_dir("/proc/self/fd").unwrap().count(),
        std::fs::read_dir("/proc/self/task").unwrap().count()
    );
}

fn cpu(tag: &str) {
    let mut out = String::new();
    let q = std::process::Command::new("sh")
        .arg("-c")
        .arg("cat /proc/*/task/*/stat 2>/dev/null | grep -E 'qemu-sys|CPU 0|vring|call_rcu'")
        .output()
        .unwrap();
    for l in String::from_utf8_lossy(&q.stdout).lines() {
        let (n, r) = l.rsplit_once(')').unwrap();
        let f: Vec<&str> = r.split_whitespace().collect();
        out += &format!(
            " {}:{}u+{}s",
            n.split('(').nth(1).unwrap_or(""),
            f[11],
            f[12]
        );
    }
    eprintln!("cpu[{tag}]{out}");
}
#[test]
fn idle() {
    let b = boot_qemu(config()).unwrap(); let m = &*b.machine;
    while m.connect(2000, T).is_err() {}
    let me = || { std::fs::read_dir("/proc/self/task").unwrap().map(|t| std::fs::read_to_string(t.unwrap().path().join("stat")).unwrap()).map(|l| { let (n, r) = l.rsplit_once(')').unwrap(); let f: Vec<&str> = r.split_whitespace().collect(); format!("{}:{}+{}", n.split('(').nth(1).unwrap(), f[11], f[12]) }).collect::<Vec<_>>() };
    eprintln!("start {:?}", me());
    std::thread::sleep(Duration::from_secs(3));
    eprintln!("idle3s {:?}", me());
    let s = cmd(m, b'Z', 1 << 30);
    std::thread::sleep(Duration::from_secs(3));
    eprintln!("blocked3s {:?}", me());
    let mut w = cmd(m, b'Q', 0); w.set_nonblocking(true).unwrap(); let _ = w.write(&vec![0; 1<<20]);
    let mut h = cmd(m, b'S', 8); h.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    eprintln!("more3s {:?}", me());
    drop(s); let mut v = vec![]; h.read_to_end(&mut v).unwrap(); assert_eq!(v.len(), 8);
    std::thread::sleep(Duration::from_secs(1));
    eprintln!("end {:?}", me());
    let c = cmd(m, b'E', 0);
    let m2 = b.machine.clone(); let t = std::thread::spawn(move || { std::thread::sleep(Duration::from_millis(300)); m2.stop(); });
    let mut c2 = c.try_clone().unwrap(); let mut buf = [0]; assert_eq!(c2.read(&mut buf).unwrap(), 0); assert!(m.exit().unwrap().stopped); t.join().unwrap();
}
