//! The programs under the segments of `gwfilter_common::testing::proxied`.

use gwfilter_common::abi;
use gwfilter_common::testing::proxied;

use crate::Expected;
use crate::object::{Hook, Object, Scan};

#[test]
fn each_segment_to_a_proxy_tuple_then_the_action_and_counter_of_its_row() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&proxied::image(0)).unwrap();
    for hook in [Hook::Tc, Hook::TcProxy] {
        for step in proxied::steps() {
            if step.name.contains("before its SYN") && hook == Hook::TcProxy {
                // The run before has left the SYNs.
                continue;
            }
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(action, step.want.action, "{hook:?}: {}", step.name);
            let mut expected = Expected::default();
            expected.add(step.want);
            expected.assert_counted(&mut object, Scan::Cases, &format!("{hook:?}: {}", step.name));
        }
    }
}

#[test]
fn segment_to_a_proxy_tuple_at_xdp_then_untouched() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&proxied::image(0)).unwrap();
    for step in proxied::steps() {
        for hook in [Hook::Xdp, Hook::XdpFrags] {
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(
                action,
                gwfilter_common::decide::Action::Pass,
                "{hook:?}: {}",
                step.name
            );
        }
    }
    assert!(object.listener_counters(Scan::Whole).unwrap().is_empty());
}
