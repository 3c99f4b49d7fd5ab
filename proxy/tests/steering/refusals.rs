//! What `Steering::load` and its kin say when they cannot.

use std::{
    env,
    net::{TcpListener, UdpSocket},
    os::fd::AsFd as _,
    process::Command,
};

use proxy::steering::Steering;

use crate::group::in_namespace;

/// Set for a child: it tries to load, and prints what came of it.
const PROBE: &str = "STEERING_TEST_PROBE";

/// Runs the named test again as a child of `wrapper`, and returns what `Steering::load` said there.
fn load_under(wrapper: &[&str], test: &str) -> String {
    let program = env::current_exe().expect("own path");
    let child = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(PROBE, "1")
        .output()
        .expect("run the wrapper");
    let output = String::from_utf8_lossy(&child.stdout);
    let said = output.lines().find_map(|line| line.split_once("load said: "));
    said.unwrap_or_else(|| panic!("the child did not load: {child:?}")).1.to_owned()
}

/// True in the child, once it has tried to load.
fn probed() -> bool {
    if env::var_os(PROBE).is_none() {
        return false;
    }
    match Steering::load(1, 1, 0) {
        Ok(_) => println!("\nload said: loaded"),
        Err(error) => println!("\nload said: {}", error.to_string().replace('\n', " ")),
    }
    true
}

#[test]
fn missing_rights_are_named() {
    if probed() {
        return;
    }
    let without = |rights: &str| {
        let bounding = format!("--bounding-set={rights}");
        load_under(&["setpriv", &bounding], "refusals::missing_rights_are_named")
    };
    let neither = without("-sys_admin,-bpf,-perfmon");
    assert!(neither.contains("CAP_BPF and CAP_PERFMON missing"), "{neither}");
    let no_bpf = without("-sys_admin,-bpf");
    assert!(no_bpf.contains("kernel program: CAP_BPF missing"), "{no_bpf}");
    let no_perfmon = without("-sys_admin,-perfmon");
    assert!(no_perfmon.contains("kernel program: CAP_PERFMON missing"), "{no_perfmon}");
}

#[test]
fn these_rights_suffice() {
    if probed() {
        return;
    }
    let said =
        load_under(&["setpriv", "--bounding-set=-all,+bpf,+perfmon"], "refusals::these_rights_suffice");
    assert_eq!(said, "loaded");
}

#[test]
fn a_shifted_time_namespace_is_refused() {
    if probed() {
        return;
    }
    let load_shifted = |seconds: &str| {
        let wrapper = ["unshare", "--time", "--fork", "--monotonic", seconds];
        load_under(&wrapper, "refusals::a_shifted_time_namespace_is_refused")
    };
    let shifted = load_shifted("86400");
    assert!(shifted.contains("shifted by 86400000000000 ns"), "{shifted}");
    assert_eq!(load_shifted("0"), "loaded");
}

#[test]
fn impossible_sizes_are_refused() {
    for (listeners, workers) in [(0, 1), (1, 0), (1025, 1), (1, 65), (u32::MAX, u32::MAX)] {
        let error = Steering::load(listeners, workers, 0).err().expect("refused").to_string();
        assert!(error.contains("1 to 1024 and 1 to 64"), "{error}");
    }
}

#[test]
fn a_socket_without_reuseport_is_refused() {
    in_namespace(|| {
        let mut steering = Steering::load(1, 1, 0).expect("load");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        for socket in [tcp.as_fd(), udp.as_fd()] {
            let error = steering.place(socket, 0, 0, 0).expect_err("refused").to_string();
            assert!(error.contains("must be bound with SO_REUSEPORT"), "{error}");
            let error = steering.attach(socket).expect_err("refused").to_string();
            assert!(error.contains("SO_ATTACH_REUSEPORT_EBPF failed"), "{error}");
        }
        let (pipe, _writer) = std::io::pipe().expect("pipe");
        assert!(steering.place(pipe.as_fd(), 0, 0, 0).is_err());
    });
}
