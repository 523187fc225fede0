//! Three services in three languages, on two nodes: this one in Rust places orders, `charge.py` charges them at the other
//! node, `ship.mjs` ships what was charged. Each talks to the node beside it, and none knows of the others. Cut the nodes
//! apart (stop one, pull a cable), and the orders wait; afterwards each is charged and shipped once.
//!
//! ```sh
//! roundelay --home first up &
//! roundelay --home second up --join ADDRESS-OF-FIRST &
//! python3 examples/polyglot/charge.py second/api.sock charge.place &
//! node examples/polyglot/ship.mjs first/api.sock ship.place &
//! cargo run --example polyglot -- first 10
//! ```

mod orders;

use std::error::Error;

use roundelay::api::client::Client;
use roundelay::home::Home;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(home), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("name the home of a node, and how many orders to place".into());
    };
    let (node, count) = (Client::new(&Home::at(home))?, count.parse()?);
    for number in 1..=count {
        orders::place(&node, number).await?;
    }
    for (order, paid) in orders::shipped(&node, count as usize).await? {
        println!("{order} is on its way, {paid} paid");
    }
    Ok(())
}
