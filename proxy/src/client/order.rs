//! `proxy failover` and `proxy failback`.

use std::path::Path;

use super::{AskError, ask};
use crate::{control::status::Status, orders::Order};

/// Gives the order, and says where new traffic goes now.
pub fn run(path: &Path, order: &Order) -> Result<String, AskError> {
    ask::order(path, order)?;
    Ok(describe(&ask::status(path)?))
}

fn describe(status: &Status) -> String {
    let serving = status.pools.iter().find(|pool| status.serving.as_deref() == Some(&pool.seat));
    match serving {
        Some(pool) => {
            let pid = pool.pid.map(|pid| format!("pid {pid}, ")).unwrap_or_default();
            format!("new traffic goes to the {} ({pid}epoch {})", pool.seat, pool.epoch)
        }
        None => "it is done, but no pool is live now; see `proxy status`".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::PoolStatus;

    #[test]
    fn the_answer_names_the_pool() {
        let pool = PoolStatus { seat: "standby".into(), pid: Some(7), epoch: 2, ..PoolStatus::default() };
        let mut status = Status { serving: Some("standby".into()), pools: vec![pool], ..Status::default() };
        assert_eq!(describe(&status), "new traffic goes to the standby (pid 7, epoch 2)");
        status.serving = None;
        assert!(describe(&status).contains("no pool is live"));
    }
}
