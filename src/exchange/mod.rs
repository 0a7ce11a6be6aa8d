//! THE LIFE OF ONE REQUEST, from admission to settlement.
